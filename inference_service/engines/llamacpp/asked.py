"""Requests as llama.cpp takes them: it does not know the choice of a tool by its name.

Nor does it know Anthropic's choice of none, which it takes for `auto`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from inference_service.engines import paths
from inference_service.engines.exchange import Request
from inference_service.engines.options import choices
from inference_service.engines.options.rules import UNREADABLE, items_of

CHOICE = "tool_choice"
_TOOLS, _PARALLEL = "tools", "parallel_tool_calls"

_look = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode, _encode = msgspec.json.decode, msgspec.json.encode


def chosen(request: Request) -> Request:
    """Return a request with those tools alone that its choice names, and a word for the choice.

    One whose choice is none of Anthropic's has no tools. Any other is returned as it is.
    """
    if request.path not in paths.CHAT:
        return request
    try:
        choice = _decode(request.options[CHOICE])
        named = choices.named(choice)
        if named is not None:
            body = _look(request.body)
            body = {**body, **_changes(choice, named, body)}
        elif isinstance(choice, dict) and choice.get("type") == choices.NONE:
            body = _look(request.body)
            body = {key: body[key] for key in body.keys() - {_TOOLS, CHOICE}}
        else:
            return request
    except (*UNREADABLE, KeyError):  # what `check` refuses, or llama.cpp will
        return request
    return msgspec.structs.replace(request, body=_encode(body))


def _changes(
    choice: Mapping[str, Any], named: choices.Named, body: Mapping[str, msgspec.Raw]
) -> dict[str, Any]:
    """Return the fields of a body that change."""
    tools = [tool for tool in items_of(body[_TOOLS]) if choices.name_of(_decode(tool)) in named]
    if choice["type"] == "tool":  # Anthropic's, which may have other fields
        others = {key: value for key, value in choice.items() if key != "name"}
        return {_TOOLS: tools, CHOICE: {**others, "type": "any"}}
    changes: dict[str, Any] = {_TOOLS: tools, CHOICE: named.mode}
    if named.is_one_call and _PARALLEL not in body:
        changes[_PARALLEL] = False
    return changes
