"""The messages of a conversation, in the forms of OpenAI and Anthropic."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from inference_service.engines.exchange import Options
from inference_service.engines.options.media import Content, Part, Parts, fetches, has_data
from inference_service.engines.options.rules import Rule, begins, decode, items_of

_ELSEWHERE = "an address to fetch from, which the entry of the model does not allow: send the data"
_EMPTY = "must have at least one item"
_MOST = 10_000  # items
_SHORT = 16  # bytes; an empty list may have blanks

_OPENAI_ROLES = ("system", "developer", "user", "assistant", "tool")
_ANTHROPIC_ROLES = ("user", "assistant", "system")
_ANTHROPIC_PARTS = (
    *("text", "image", "tool_use", "tool_result"),
    *("thinking", "redacted_thinking"),
)
_TEXTS = ("text", "input_text", "output_text")
_MEDIA = ("image", "image_url", "input_image", "video_url", "input_video", "input_audio")


class _Function(msgspec.Struct):
    name: str


class _Call(msgspec.Struct):
    type: str
    function: _Function
    id: str | None = None


class _Message(msgspec.Struct):
    role: str
    content: Content = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None


class _Item(msgspec.Struct):
    """An item of the `input` of OpenAI's Responses, or a message of anybody."""

    type: str = ""
    call_id: str | None = None
    content: Content = None
    output: Content = None


_message = msgspec.json.Decoder(_Message).decode
_item = msgspec.json.Decoder(_Item).decode
_part = msgspec.json.Decoder(Part).decode

Calls = set[str]
Check = Callable[[_Message, Calls, Parts], str]


def openai(raw: msgspec.Raw, options: Options) -> str:
    """Check the `messages` of OpenAI, for an engine that drops what its template does not know."""
    return _each(raw, _openai)


def anthropic(raw: msgspec.Raw, options: Options) -> str:
    """Check the `messages` of Anthropic, for an engine that drops what it cannot convert."""
    return _each(raw, _anthropic)


def _each(raw: msgspec.Raw, check: Check) -> str:
    calls: Calls = set()
    parts, messages = Parts(), _listed(raw)
    for index, message in enumerate(messages):
        if mistake := check(_message(message), calls, parts):
            return f"{mistake} (item {index})"
    return "" if messages else _EMPTY


def _listed(raw: msgspec.Raw) -> list[msgspec.Raw]:
    items = items_of(raw)
    if len(items) > _MOST:
        raise msgspec.ValidationError(f"there are more than {_MOST} items")
    return items


def _openai(message: _Message, calls: Calls, parts: Parts) -> str:
    if message.role not in _OPENAI_ROLES:
        return _role(message.role, _OPENAI_ROLES)
    calls.update(call.id for call in message.tool_calls or () if call.id is not None)
    if message.role == "tool" and message.tool_call_id not in calls:
        return _without_call("tool_call_id", message.tool_call_id)
    for part in parts.of(message.content):
        if fetches(part):
            return f"must not have {_ELSEWHERE} as a `data:` URL"
        if mistake := _unread(part):
            return mistake
    return ""


def _unread(part: Part) -> str:
    """Return why llama.cpp cannot read a part, for which it has a 500."""
    if part.type in _TEXTS and not begins(part.text, b'"'):
        return "must have a string as the `text` of each text part"
    if part.type in _MEDIA:
        return "must have no images and no sounds: llama.cpp has no file (mmproj) for them here"
    return ""


def _anthropic(message: _Message, calls: Calls, parts: Parts) -> str:
    if message.role not in _ANTHROPIC_ROLES:
        return _role(message.role, _ANTHROPIC_ROLES)
    if message.content is None:
        return "must have a `content` in each message"
    for part in parts.of(message.content):
        if part.type not in _ANTHROPIC_PARTS:
            known = ", ".join(_ANTHROPIC_PARTS)
            return f"must have parts of the types {known}, and not {part.type[:40]!r}"
        if fetches(part):
            return f"must not have {_ELSEWHERE} as base64"
        if part.type == "image" and not has_data(part):
            return "must have images whose `source` is of the type base64"
        if mistake := _unread(part):
            return mistake
        if part.type == "tool_use" and part.id is not None:
            calls.add(part.id)
        if part.type == "tool_result" and part.tool_use_id not in calls:
            return _without_call("tool_use_id", part.tool_use_id)
    return ""


def system(raw: msgspec.Raw, options: Options) -> str:
    """Check the `system` of Anthropic, for an engine that drops all but texts of it."""
    if not begins(raw, b"["):
        return text(raw, options)
    for index, each in enumerate(_listed(raw)):
        part = _part(each)
        if part.type != "text":
            return f"must have text blocks only, and not {part.type[:40]!r} (item {index})"
        if mistake := _unread(part):
            return f"{mistake} (item {index})"
    return ""


def text(raw: msgspec.Raw, options: Options) -> str:
    """Refuse what is no text, which llama.cpp writes into the prompt as it is."""
    return "" if begins(raw, b'"') or decode(raw) is None else "must be a text"


def responses(raw: msgspec.Raw, options: Options) -> str:
    """Check the `input` of OpenAI's Responses, which is a text or a list of items."""
    if not begins(raw, b"["):
        return ""
    calls: Calls = set()
    items = _listed(raw)
    for index, each in enumerate(items):
        item = _item(each)
        if item.type == "function_call" and item.call_id is not None:
            calls.add(item.call_id)
        if item.type == "function_call_output" and item.call_id not in calls:
            return f"{_without_call('call_id', item.call_id)} (item {index})"
    return (no_fetching(raw, options) or _unread_in(items)) if items else _EMPTY


def _unread_in(items: list[msgspec.Raw]) -> str:
    parts = Parts()
    for index, each in enumerate(items):
        if mistake := next(filter(None, map(_unread, parts.of(_item(each).content))), ""):
            return f"{mistake} (item {index})"
    return ""


def no_fetching(raw: msgspec.Raw, options: Options) -> str:
    """Refuse messages for which an engine would fetch something; other JSON passes.

    Each key of an address ends with the first of these signs, unless the second hides it. Bodies
    without them are not read.
    """
    if not begins(raw, b"["):
        return ""
    data = bytes(raw)
    if not (b'url"' in data or b"\\u" in data):
        return ""
    parts = Parts()
    for index, each in enumerate(_listed(raw)):
        if not begins(each, b"{"):
            continue
        item = _item(each)
        for content in (item.content, item.output):
            if any(map(fetches, parts.of(content))):
                return f"must not have {_ELSEWHERE} as a `data:` URL (item {index})"
    return ""


def anything(raw: msgspec.Raw, options: Options) -> str:
    """Refuse nothing."""
    return ""


def not_empty(rule: Rule) -> Rule:
    """Refuse an empty list, and what the rule refuses."""

    def checked(raw: msgspec.Raw, options: Options) -> str:
        shortest = len(memoryview(raw)) < _SHORT
        return _EMPTY if shortest and decode(raw) == [] else rule(raw, options)

    return checked


def _role(role: str, known: tuple[str, ...]) -> str:
    return f"must have the roles {', '.join(known)}, and not {role[:40]!r}"


def _without_call(field: str, call: str | None) -> str:
    shown = "none" if call is None else repr(call[:40])
    return f"must have the call before its result: its `{field}` is {shown}, which no call has"
