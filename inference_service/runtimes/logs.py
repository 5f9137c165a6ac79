"""The log of an engine: its last lines, and the lines to come."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncGenerator, Iterable
from itertools import takewhile

from inference_service.printable import printable, without_passwords
from inference_service.runtimes.lines import LINE_LIMIT

KEPT_LINES = 1000
_KEPT_CHARACTERS = 1 << 23

_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}\b")
_HIDDEN = "***"


class LogBuffer:
    """The last lines of a log, without `secrets`, for any number of readers.

    Control characters in a line stand as escapes. A reader that is more than `size` lines behind
    the engine loses the oldest of them.
    """

    def __init__(self, secrets: Iterable[str] = (), size: int = KEPT_LINES) -> None:
        self._secrets = tuple(secrets)
        self._size = size
        self._lines: deque[tuple[int, str]] = deque()  # by their numbers
        self._characters = 0
        self._count = 0
        self._closed = False
        self._changed = asyncio.Event()

    def append(self, line: str, redrawn: bool = False) -> None:
        """Add a line, with secrets, tokens of Hugging Face and passwords of URLs hidden.

        A `redrawn` line takes the place of the last one. Readers that have seen that get both.
        """
        for secret in self._secrets:
            line = line.replace(secret, _HIDDEN)
        line = _cut(printable(without_passwords(_TOKEN.sub(_HIDDEN, line))))
        if redrawn and self._lines:
            self._characters -= len(self._lines.pop()[1])
        self._count += 1
        self._lines.append((self._count, line))
        self._characters += len(line)
        while len(self._lines) > self._size or self._characters > _KEPT_CHARACTERS:
            self._characters -= len(self._lines.popleft()[1])
        self._wake()

    def close(self) -> None:
        """End the log: the readers end after its last line."""
        self._closed = True
        self._wake()

    def tail(self, count: int) -> tuple[str, ...]:
        """Return the last `count` lines, oldest first."""
        return tuple(line for _, line in self._lines)[-count:] if count else ()

    async def follow(self, last: int = KEPT_LINES) -> AsyncGenerator[str]:
        """Yield the last lines, then each new line, until the log is closed."""
        seen = self._count
        if first := tuple(self._lines)[-last:] if last else ():
            seen = first[0][0] - 1
        while True:
            changed = self._changed
            fresh = [*takewhile(lambda kept: kept[0] > seen, reversed(self._lines))]  # noqa: B023
            seen = self._count
            for _, line in reversed(fresh):
                yield line
            if seen == self._count:
                if self._closed:
                    return
                await changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _cut(line: str) -> str:
    """Return the line, or what of it fits the limit: escapes have made it longer."""
    if len(line) <= LINE_LIMIT // 4 or len(data := line.encode()) <= LINE_LIMIT + 3:
        return line
    return data[:LINE_LIMIT].decode(errors="ignore") + "…"
