"""Options of llama.cpp whose values it drops where they have another form than it expects."""

from __future__ import annotations

from typing import Any

import msgspec

from inference_service.engines.exchange import Options
from inference_service.engines.options import choices
from inference_service.engines.options.rules import NULL, decode

_MOST_BIASES = 1024
_LEAST_TEMPERATURE = 2.0**-23  # as in Generate, where less means 0
_CHOICES = (
    '"auto", "none", "required", a tool such as {"type": "function", ...} with its name, '
    "or `allowed_tools` with their mode and names"
)


def temperature(raw: msgspec.Raw, options: Options) -> str:
    """Refuse what is greedy for who asks, and noise for engines that divide by it."""
    value = decode(raw)
    if isinstance(value, float) and 0 < value < _LEAST_TEMPERATURE:
        return "must be 0 for the most likely token, or at least 1e-6: engines count with 32 bits"
    return ""


def length(raw: msgspec.Raw, options: Options) -> str:
    """Refuse a length of nothing, for which llama.cpp makes one token."""
    value = decode(raw)
    return "must be at least 1, or -1 for no limit" if value == 0 and value is not False else ""


def stop(raw: msgspec.Raw, options: Options) -> str:
    """Refuse what is dropped, and the empty sequence, which ends a text at its first token."""
    value = decode(raw)
    if value is None:
        return ""
    stops = value if isinstance(value, list) else [value]
    if not all(isinstance(each, str) and each for each in stops):
        return "must be a string or a list of strings, none of them empty"
    return ""


def logit_bias(raw: msgspec.Raw, options: Options) -> str:
    """Refuse biases that are dropped: those that are no numbers."""
    value = decode(raw)
    if value is None:
        return ""
    if isinstance(value, dict):
        biases = list(value.values())
    elif isinstance(value, list) and all(map(_is_pair, value)):
        biases = [each[1] for each in value]
    else:
        return 'must be an object such as {"50": -100}'
    if len(biases) > _MOST_BIASES:
        return f"must have at most {_MOST_BIASES} tokens"
    if not all(isinstance(each, int | float) and each is not True for each in biases):
        return "must have a number for each token"
    return ""


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2


def grammar(raw: msgspec.Raw, options: Options) -> str:
    """Refuse a grammar of llguidance: builds without it drop the grammar, or end at it."""
    value = decode(raw)
    if isinstance(value, str) and value.lstrip().startswith("%llguidance"):
        return "must be in llama.cpp's own format (GBNF)"
    return ""


def best_of(raw: msgspec.Raw, options: Options) -> str:
    """Refuse a choice among more texts than are returned."""
    value = decode(raw)
    if value in (None, 1) or value == decode(options.get("n", NULL)):
        return ""
    return "must be left out: no engine chooses among texts (use `n` and choose yourself)"


def tool_choice(raw: msgspec.Raw, options: Options) -> str:
    """Refuse a tool that is not there. Other tools than those that are named are not sent."""
    value = decode(raw)
    if isinstance(value, dict):
        return _named(value, options)
    if value not in (None, "auto", "none", "required"):
        return f"must be {_CHOICES}"
    if value == "required" and not decode(options.get("tools", NULL)):
        return "must not be required without `tools`"
    return ""


def _named(value: dict[str, Any], options: Options) -> str:
    choice = choices.named(value)
    if choice is None or value.get("type") == "tool":
        return f"must be {_CHOICES}"
    name = choice.missing(decode(options.get("tools", NULL)))
    return "" if name is None else _without_tool(name)


def _without_tool(name: str) -> str:
    return f"must name one of the `tools`, and {name[:80]!r} is none of them"


def anthropic_tool_choice(raw: msgspec.Raw, options: Options) -> str:
    """Refuse other types than Anthropic's, and a tool that is not there."""
    value = decode(raw)
    kind = value.get("type") if isinstance(value, dict) else None
    tools = decode(options.get("tools", NULL))
    if value is None or kind in ("auto", choices.NONE):
        return ""
    if kind not in ("any", "tool"):
        return "must have the type auto, any, tool or none"
    if not isinstance(tools, list) or not tools:
        return "must have `tools` beside it"
    if kind == "any":
        return ""
    choice = choices.named(value)
    if choice is None:
        return "must have the `name` of a tool"
    name = choice.missing(tools)
    return "" if name is None else _without_tool(name)


def thinking(raw: msgspec.Raw, options: Options) -> str:
    """Refuse other types than those that llama.cpp knows, or that its templates do by default."""
    value = decode(raw)
    if value is None:
        return ""
    kind = value.get("type") if isinstance(value, dict) else None
    if kind not in ("enabled", "disabled", "adaptive"):
        return "must have the type enabled, disabled or adaptive"
    budget = value.get("budget_tokens", 0)
    if not (isinstance(budget, int) and 0 <= budget < 1 << 31):
        return "must have `budget_tokens` from 0 to 2147483647"
    return ""


def text(raw: msgspec.Raw, options: Options) -> str:
    """Refuse the formats of OpenAI's Responses, which llama.cpp drops."""
    value = decode(raw)
    if not isinstance(value, dict):
        return "" if value is None else "must be an object"
    form = value.get("format")
    if form is not None and (not isinstance(form, dict) or form.get("type") != "text"):
        return "must not have a `format`: use `response_format` at /v1/chat/completions"
    if value.get("verbosity") not in (None, "medium"):
        return "must not have a `verbosity`: say it in the `instructions`"
    return ""


def include(raw: msgspec.Raw, options: Options) -> str:
    """Refuse what no answer will have, but for the encrypted thoughts that SDKs always ask for."""
    value = decode(raw)
    if value is None or (isinstance(value, list) and set(value) <= {"reasoning.encrypted_content"}):
        return ""
    return "must be left out: llama.cpp adds nothing to its answers"


def context_management(raw: msgspec.Raw, options: Options) -> str:
    """Refuse edits of the conversation, which llama.cpp does not make."""
    value = decode(raw)
    if not value or (isinstance(value, dict) and not value.get("edits")):
        return ""
    return "must be left out: llama.cpp does not edit conversations"


def output_config(raw: msgspec.Raw, options: Options) -> str:
    """Refuse a format of Anthropic's, which llama.cpp drops. The effort is a hint."""
    value = decode(raw)
    if isinstance(value, dict) and value.get("format") is not None:
        return "must not have a `format`: use `response_format` at /v1/chat/completions"
    return ""
