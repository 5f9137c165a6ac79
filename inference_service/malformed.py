"""Texts that are not Unicode, as a client sends them that cuts a text between two bytes or halves.

JSON and JavaScript write a character beyond U+FFFF, such as an emoji, as two halves (surrogates).
"""

from __future__ import annotations

import json
import re
from typing import Any

SENTENCE = (
    "is not UTF-8: it has another encoding, or half of a character such as an emoji; send whole "
    "characters in UTF-8"
)

_HALF = re.compile("[\ud800-\udfff]")
_LARGEST = 64 << 10  # bytes of a body that is looked at: a larger one would hold the loop


def field_in(body: bytes) -> str | None:
    """Return the field of a body of JSON, such as `messages[0].content`, whose text is malformed.

    None where there is none, and for what is too large or no JSON.
    """
    if len(body) > _LARGEST:
        return None
    try:
        value = json.loads(body.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        return None
    return _found(value)


def _found(value: Any) -> str | None:
    left = [("", value)]
    while left:
        path, each = left.pop()
        match each:
            case str() if _HALF.search(each):
                return path or "body"
            case dict() if any(map(_HALF.search, each)):  # the name of a field
                return path or "body"
            case dict():
                left += [(f"{path}.{name}" if path else name, item) for name, item in each.items()]
            case list():
                left += [(f"{path}[{index}]", item) for index, item in enumerate(each)]
    return None
