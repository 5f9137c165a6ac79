r"""Lines out of the bytes that an engine writes."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import NamedTuple

# An engine that never ends its line must not fill the memory (moby#18057). Readers of server-sent
# events have limits too: aiohttp's is 128 KiB for a line (aiohttp-sse-client#11).
LINE_LIMIT = 100 * 1024  # bytes

# The pieces of one read, between line feeds or within a line between carriage returns, beyond which
# those in the middle are left out: 64 KiB of empty lines would take 0.7 s of the loop. No log keeps
# more lines.
_MOST_PIECES = 1000

# A bar has a number with a percent sign, or, of a total that is not known, `12it [` or `3.4MB [`.
_BAR = re.compile(rb"(.*?)\s*+[\d.]++(?:%|[kMGT]?(?:i?B|it) \[)")
_BAR_WITHIN = 300  # bytes


class Line(NamedTuple):
    """A line, or a state of one; `redrawn` is true where it takes the place of the last."""

    text: str
    redrawn: bool = False


class Lines:
    r"""The lines of one output; LF and CRLF end a line.

    A carriage return alone goes back to the beginning of the line. It stays in the line, for words
    that hide what stands before them could forge a line. A progress bar is an exception: its last
    state takes the place of the states before, as on a terminal, and is shown before the line ends,
    since that is when the work is done (argo-workflows#7671). What a line has beyond the limit is
    left out.
    """

    def __init__(self, limit: int = LINE_LIMIT) -> None:
        self._limit = limit
        self._states: list[bytes] = []  # the parts of an unfinished line, each before a CR
        self._used = 0  # bytes of them, with the CRs
        self._text = bytearray()  # the part after the last CR
        self._shown: str | None = None  # what was last yielded of this line

    def feed(self, data: bytes) -> Iterator[Line]:
        """Take bytes as they come, and yield the lines that they end."""
        *pieces, rest = data.split(b"\n")
        for piece in _few(pieces):
            self._take(piece)
            yield from self._finished()
        self._take(rest)
        if self._states and _bar(self._states[-1]) is not None:
            yield from self._changed()

    def end(self) -> Iterator[Line]:
        """Yield the line that the output has begun and not ended."""
        if self._text or self._states:
            yield from self._finished()

    def _take(self, piece: bytes) -> None:
        first, *others = piece.split(b"\r")
        self._add(first)
        for other in _few(others):
            self._return()
            self._add(other)

    def _add(self, piece: bytes) -> None:
        # One byte more than fits shows that the line was cut.
        self._text += piece[: max(0, self._limit + 1 - self._used - len(self._text))]

    def _return(self) -> None:
        """End a state of the line."""
        state = bytes(self._text)
        self._text.clear()
        if self._states and _replaces(self._states[-1], state):
            self._used -= len(self._states.pop()) + 1
        elif self._states and _bar(self._states[-1]) is not None and _blank(state):
            return  # a bar that is wiped out at its end
        if self._used <= self._limit:
            self._states.append(state)
            self._used += len(state) + 1

    def _finished(self) -> Iterator[Line]:
        self._return()
        yield from self._changed()
        self._states.clear()
        self._used, self._shown = 0, None

    def _changed(self) -> Iterator[Line]:
        line = b"\r".join(self._states)
        cut = len(line) > self._limit
        # The limit may be within a character, the rest of which is then left out too.
        decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        text = decoder.decode(line[: self._limit], final=not cut)
        text = f"{text}…" if cut else text.rstrip(" \t\r")
        if text != self._shown:
            yield Line(text, redrawn=self._shown is not None)
            self._shown = text


def _few(pieces: list[bytes]) -> list[bytes]:
    """Return the first and the last pieces, without those of the middle where there are many."""
    return pieces if len(pieces) <= _MOST_PIECES else [pieces[0], *pieces[1 - _MOST_PIECES :]]


def _replaces(last: bytes, state: bytes) -> bool:
    """Return whether a state takes the place of the last one: as a bar of the same name."""
    bar = _bar(state)
    return bar is not None and (_blank(last) or bar == _bar(last))


def _bar(state: bytes) -> bytes | None:
    """Return the name of a progress bar, which stands before its first number."""
    match = _BAR.match(state[:_BAR_WITHIN])
    return match and match[1].strip()


def _blank(state: bytes) -> bool:
    return not state.strip()
