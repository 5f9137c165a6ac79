"""Control tokens of a model in the texts of a request.

An engine that finds `<|im_end|>` in a message takes it for the end of the message, as the chat
template writes it. So who writes a part of a conversation can forge the other parts.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

# Fields whose strings are no text for the model. TGI has its own in `parameters`.
_NO_TEXT = frozenset(
    "model stop stop_sequences logit_bias tool_choice response_format grammar json_schema"
    " parameters".split()
)

_SLICE = 1 << 16  # bytes that are looked at before other work has its turn
_FIELD = 128  # bytes that take as long as a field without any
_ESCAPE = 6  # bytes of the longest escape of JSON
_RUN = 1 << 12  # bytes before a token that are looked at

_SHORT = {"\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t", '"': '"', "\\": "\\", "/": "/"}

_Tree = dict[str, Any]


class ControlTokens:
    """The control tokens of a model, to be found in bodies of JSON.

    One regular expression has all of them, each character as itself and as the escapes that JSON
    has for it. So a body is looked at as it came, without a copy: a small one in a microsecond.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        known = _without_longer(token for token in tokens if token)
        # A character beyond U+FFFF has two escapes.
        self._longest = max((2 * _ESCAPE * len(token) for token in known), default=0)
        self._begins = tuple({way for token in known for way in _begins(token[0])})
        self._search = re.compile(_pattern(_tree(known))).search

    async def find(self, body: bytes, options: Mapping[str, msgspec.Raw]) -> tuple[str, str] | None:
        """Return the first field of a body that has a control token, and the token.

        `options` are the fields of the body by name, each as its caller wrote it. Other work of the
        loop has its turn while a large body is looked at.
        """
        if not self._begins or (len(body) <= _SLICE and not self._may_have(body)):
            return None
        if await self._first(memoryview(body)) is None:
            return None
        looked = 0
        for name, raw in options.items():
            data = memoryview(raw)
            looked += len(data) + _FIELD
            if looked > _SLICE:
                looked = 0
                await asyncio.sleep(0)
            if name not in _NO_TEXT and (token := await self._first(data)) is not None:
                return name, token
        return None

    def _may_have(self, body: bytes) -> bool:
        """Return whether the body has the beginning of a token: 0.3 us where it has none."""
        return any(begin in body for begin in self._begins)

    async def _first(self, data: memoryview) -> str | None:
        """Return the first token in the data."""
        for begin in range(0, len(data), _SLICE):
            if begin:
                await asyncio.sleep(0)
            if (token := self._token(data, begin)) is not None:
                return token
        return None

    def _token(self, data: memoryview, begin: int) -> str | None:
        """Return the first token that begins in the slice."""
        end = begin + _SLICE
        while match := self._search(data, begin, end + self._longest):
            begin = match.start()
            if begin >= end:
                return None
            if not _within_escape(data, begin):
                return str(json.loads(b'"%s"' % match[0]))
            begin += 1
        return None


def _within_escape(data: memoryview, at: int) -> bool:
    r"""Return whether the byte belongs to an escape that begins before it, as `n` does in `\n`."""
    before = bytes(data[max(0, at - _RUN) : at])
    if (last := before.rfind(b"\\", -_ESCAPE + 1)) < 0:
        return False
    ahead = len(before[: last + 1].rstrip(b"\\"))
    # Of a run that fills all that is looked at, nobody knows where it begins.
    if (last + 1 - ahead) % 2 == 0 or (ahead == 0 and len(before) == _RUN):
        return False
    written = bytes(data[at - len(before) + last + 1 : at + 1])
    return len(written) < (_ESCAPE if written.startswith(b"u") else 2)


def _begins(character: str) -> Iterator[bytes]:
    """Yield what is in each body that has the character, one for each way to write it."""
    yield character.encode()
    yield b"\\u"
    if character in _SHORT:
        yield b"\\" + _SHORT[character].encode()


def _without_longer(tokens: Iterable[str]) -> list[str]:
    """Return the tokens without those that begin with another of them."""
    kept: list[str] = []
    for token in sorted(tokens):
        if not kept or not token.startswith(kept[-1]):
            kept.append(token)
    return kept


def _tree(tokens: Iterable[str]) -> _Tree:
    """Return the tokens by their characters; the end of each is empty."""
    root: _Tree = {}
    for token in tokens:
        node = root
        for character in token:
            node = node.setdefault(character, {})
    return root


def _pattern(node: _Tree) -> bytes:
    """Return the pattern of a tree: what tokens share is matched once."""
    ways = [
        b"(?:%s)%s" % (b"|".join(_written(character)), _pattern(rest) if rest else b"")
        for character, rest in node.items()
    ]
    return b"(?:%s)" % b"|".join(ways)


def _written(character: str) -> Iterator[bytes]:
    """Yield the patterns of all the ways in which JSON can have a character in a string."""
    if character >= " " and character not in '"\\':
        yield re.escape(character.encode())
    if character in _SHORT:
        yield re.escape(b"\\" + _SHORT[character].encode())
    units = character.encode("utf-16-be")
    numbers = [units[at : at + 2].hex() for at in range(0, len(units), 2)]
    yield b"".join(rb"\\u" + b"".join(map(_digit, number)) for number in numbers)


def _digit(digit: str) -> bytes:
    return f"[{digit}{digit.upper()}]".encode() if digit.isalpha() else digit.encode()
