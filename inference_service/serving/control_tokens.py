r"""Control tokens of a model in the texts of a request.

An engine that finds `<|im_end|>` in a message takes it for the end of the message, as the chat
template writes it. So who writes a part of a conversation can forge the other parts.

Engines read JSON within a string of JSON, such as the arguments of a call, where `\\u003c` is `<`.
And they join a list of texts, each of which may have a part of a token.
"""

from __future__ import annotations

import asyncio
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
_MOST_DECODED = 1 << 17  # bytes of a field, which take 15 ms at most

_LETTERS = {"\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t"}
_ESCAPED = re.compile(r"\\+(?:u([0-9a-fA-F]{4}))?")
# Four levels of JSON within JSON. Without a limit, a run of backslashes would take its square.
_RUN = rb"\\\\{0,7}+"
_BACKSLASH = rb"\\\\{0,7}"  # of a token, which can give some to the escape that follows
_LONGEST = 8 + 5  # bytes of an escape

# The end of a string, and what can follow it: there a token may be broken off.
_END = rb'"\s*+[]},]'
_ends = re.compile(rb"(?<!\\)" + _END + b"$").search

_Tree = dict[str, Any]
_decode = msgspec.json.Decoder().decode


class ControlTokens:
    """The control tokens of a model, to be found in bodies of JSON.

    One regular expression has all of them, each character as itself and as the escapes that JSON
    has for it. So a body is looked at as it came, without a copy: a small one in a microsecond. To
    make it takes about 0.2 ms for each token.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        self._tokens = _without_longer(token for token in tokens if token)
        tree = _tree(self._tokens)
        self._begins = tuple({way for character in tree for way in _begins(character)})
        self._search = re.compile(_pattern(tree)).search
        self._longest = max((2 * _LONGEST * len(token) for token in self._tokens), default=0)

    async def find(self, body: bytes, options: Mapping[str, msgspec.Raw]) -> tuple[str, str] | None:
        """Return the first field of a body that has a control token, and the token.

        `options` are the fields of the body by name, each as its caller wrote it. Other work of the
        loop has its turn while a large body is looked at.
        """
        if self.surely_not_in(body):
            return None
        if await self._look(body) == (None, None):
            return None
        looked = 0
        for name, raw in options.items():
            data = memoryview(raw)
            looked += len(data) + _FIELD
            if looked > _SLICE:
                looked = 0
                await asyncio.sleep(0)
            if name not in _NO_TEXT and (token := await self._token(data)) is not None:
                return name, token
        return None

    def surely_not_in(self, body: bytes) -> bool:
        """Return whether a short look says that a body has no token."""
        return not self._tokens or (len(body) <= _SLICE and not self._may_have(body))

    def _may_have(self, body: bytes) -> bool:
        """Return whether the body has the beginning of a token."""
        return any(begin in body for begin in self._begins)

    async def _token(self, data: memoryview) -> str | None:
        """Return the first token in a field, be it in two texts of one list."""
        token, begun = await self._look(data)
        if token is not None or begun is None:
            return token
        if len(data) > _MOST_DECODED:
            return begun
        try:
            value = _decode(data)
        except (msgspec.DecodeError, RecursionError):
            return begun
        for text in _joined(value):
            for token in self._tokens:
                if token in text:
                    return token
        return None

    async def _look(self, data: bytes | memoryview) -> tuple[str | None, str | None]:
        """Return the first token of the data, and the first that a string may begin."""
        begun = None
        for begin in range(0, len(data), _SLICE):
            if begin:
                await asyncio.sleep(0)
            at, end = begin, begin + _SLICE
            while (match := self._search(data, at, end + self._longest)) and match.start() < end:
                written = match[0]
                if (broken := _ends(written)) is None:
                    return self._named(written), begun
                begun = begun or self._named(written[: broken.start()])
                at = match.end()
        return None, begun

    def _named(self, written: bytes) -> str:
        """Return the token that is written so, or begins so."""
        text = _ESCAPED.sub(lambda escape: chr(int(escape[1] or "0", 16)), written.decode())
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "")
        return next((token for token in self._tokens if token.startswith(text)), text)


def _joined(value: Any) -> Iterator[str]:
    """Yield the texts of each list of several, as one."""
    left = [value]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left.extend(value.values())
        elif isinstance(value, list):
            left.extend(value)
            texts = [part.get("text") for part in value if isinstance(part, dict)]
            if len(texts) > 1:
                yield "".join(text for text in texts if isinstance(text, str))


def _begins(character: str) -> Iterator[bytes]:
    """Yield what is in each body that has the character, one for each way to write it."""
    yield character.encode()
    yield b"\\u"
    if character in _LETTERS:
        yield b"\\" + _LETTERS[character].encode()


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


def _pattern(node: _Tree, more: tuple[bytes, ...] = ()) -> bytes:
    """Return the pattern of a tree, in which what tokens share is matched once.

    After a first character, the end of the string will do, too.
    """
    ways = [
        b"(?:%s)%s" % (b"|".join(_written(character)), _pattern(after, (_END,)) if after else b"")
        for character, after in node.items()
    ]
    return b"(?:%s)" % b"|".join([*ways, *more])


def _written(character: str) -> Iterator[bytes]:
    """Yield the patterns of all the ways in which JSON can have a character in a string."""
    if character in _LETTERS:
        yield _RUN + _LETTERS[character].encode()
    elif character in '/"':
        yield character.encode()
        yield _RUN + character.encode()
    elif character == "\\":
        yield _BACKSLASH
    else:
        yield re.escape(character.encode())
    units = character.encode("utf-16-be")
    numbers = [units[at : at + 2].hex() for at in range(0, len(units), 2)]
    yield b"".join(_RUN + b"u" + b"".join(map(_digit, number)) for number in numbers)


def _digit(digit: str) -> bytes:
    return f"[{digit}{digit.upper()}]".encode() if digit.isalpha() else digit.encode()
