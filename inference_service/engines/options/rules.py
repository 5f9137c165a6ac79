"""Rules for the fields of a body of JSON, and the check of a whole body."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from math import inf

import msgspec

from inference_service.engines.exchange import Options
from inference_service.errors import InvalidParameter

# Returns what is wrong with a field, as the end of a sentence, or nothing. The options are there
# for fields that depend on each other. May raise what `msgspec` raises.
Rule = Callable[[msgspec.Raw, Options], str]
Rules = Mapping[str, Rule]

# What rules may decode as a whole: a list of a million numbers holds the loop for a second.
_LARGEST = 256 << 10
_LARGE = frozenset(("messages", "input", "prompt", "documents"))

NULL = msgspec.Raw(b"null")
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

decode = msgspec.json.decode


def check(model_id: str, rules: Rules, options: Options, required: Collection[str] = ()) -> None:
    """Raise InvalidParameter with every option that is missing or breaks its rule."""
    none = bytes(NULL)
    wrong = {name: "is missing" for name in required if begins(options.get(name, NULL), none)}
    for name, raw in options.items():
        if name in wrong or name not in rules:
            continue
        if mistake := _mistake(name, rules[name], raw, options):
            wrong[name] = mistake
    if wrong:
        raise InvalidParameter(wrong, model_id)


def _mistake(name: str, rule: Rule, raw: msgspec.Raw, options: Options) -> str:
    if name not in _LARGE and len(memoryview(raw)) > _LARGEST:
        return f"must have at most {_LARGEST} bytes"
    try:
        return rule(raw, options)
    except UNREADABLE as error:
        return f"cannot be read: {error}"


def unset(value: object) -> bool:
    """Return whether SDKs send this value for an option that was not given."""
    return value is None or value is False or value == [] or value == ""


def refused(why: str, *harmless: object) -> Rule:
    """Refuse each value but those that ask for nothing."""

    def rule(raw: msgspec.Raw, options: Options) -> str:
        value = decode(raw)
        if unset(value) or value in harmless:
            return ""
        return f"must be left out: {why}"

    return rule


def dropped(raw: msgspec.Raw, options: Options) -> str:
    """Refuse an option of which an entry says that its engine drops it."""
    value = decode(raw)
    nothing = value is not True and value in (1, "auto", {"type": "text"})  # asks for no more
    return "" if unset(value) or nothing else "must be left out: the engine of this model drops it"


def internal(raw: msgspec.Raw, options: Options) -> str:
    """Refuse a field by which parts of an engine talk to each other."""
    return "must be left out: it is internal to the engine"


def one_of(*values: object, why: str) -> Rule:
    """Refuse each value but these, and no value at all."""

    def rule(raw: msgspec.Raw, options: Options) -> str:
        value = decode(raw)
        if value is None or value in values:
            return ""
        return f"must be {' or '.join(map(repr, values))}: {why}"

    return rule


def whole(low: int, high: int, why: str = "") -> Rule:
    """Refuse what is no whole number within bounds."""
    return _bounded(low, high, why, whole=True)


def number(low: float, high: float, why: str = "") -> Rule:
    """Refuse what is no number within bounds."""
    return _bounded(low, high, why, whole=False)


def _bounded(low: float, high: float, why: str, *, whole: bool) -> Rule:
    bounds = f"from {low:g} to {high}" if high < inf else f"of at least {low:g}"
    mistake = f"must be a {'whole ' * whole}number {bounds}" + (f": {why}" if why else "")

    def rule(raw: msgspec.Raw, options: Options) -> str:
        value = decode(raw)
        if isinstance(value, int | float):
            good = (low <= value <= high and not (whole and value % 1)) or value is False
        else:
            good = value is None
        return "" if good else mistake

    return rule


def listed(most: int) -> Rule:
    """Refuse a list of strings or of lists with too many items. Other values pass.

    A list of tokens is one text, and may be longer.
    """

    def rule(raw: msgspec.Raw, options: Options) -> str:
        if not begins(raw, b"["):
            return ""
        items = items_of(raw)
        if len(items) <= most or not bytes(items[0]).startswith((b'"', b"[", b"{")):
            return ""
        return f"must have at most {most} items, not {len(items)}: send several requests"

    return rule


def begins(raw: msgspec.Raw, sign: bytes) -> bool:
    """Return whether JSON begins with these bytes, without a copy of it."""
    return memoryview(raw)[: len(sign)] == sign


def all_of(*rules: Rule) -> Rule:
    """Return the first mistake that a rule finds."""
    return lambda raw, options: next(filter(None, (rule(raw, options) for rule in rules)), "")


def names(fields: Collection[str], rule: Rule) -> dict[str, Rule]:
    """Give several fields the same rule."""
    return dict.fromkeys(fields, rule)


items_of = msgspec.json.Decoder(list[msgspec.Raw]).decode
