"""The last lines that an engine wrote, and the lines to come."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncGenerator, Iterable

KEPT_LINES = 1000

_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}\b")
_HIDDEN = "***"


class LogBuffer:
    """Keeps the last lines, without `secrets`; any number of readers may follow it.

    A reader that is slower than the engine by more than `size` lines loses the oldest.
    """

    def __init__(self, secrets: Iterable[str] = (), size: int = KEPT_LINES) -> None:
        self._secrets = tuple(secrets)
        self._lines: deque[str] = deque(maxlen=size)
        self._count = 0
        self._closed = False
        self._changed = asyncio.Event()

    def append(self, line: str) -> None:
        """Add a line, of which tokens of Hugging Face are hidden too."""
        for secret in self._secrets:
            line = line.replace(secret, _HIDDEN)
        line = _TOKEN.sub(_HIDDEN, line)
        self._lines.append(line)
        self._count += 1
        self._wake()

    def close(self) -> None:
        """Say that no more lines come."""
        self._closed = True
        self._wake()

    def tail(self, count: int) -> tuple[str, ...]:
        """The last `count` lines, oldest first."""
        return tuple(self._lines)[-count:] if count else ()

    async def follow(self, last: int = KEPT_LINES) -> AsyncGenerator[str]:
        """Yield the last lines, then each new one, until the log is closed."""
        seen = self._count - min(last, len(self._lines))
        while True:
            changed = self._changed
            fresh = min(self._count - seen, len(self._lines))
            seen = self._count
            for line in tuple(self._lines)[len(self._lines) - fresh :]:
                yield line
            if seen == self._count:
                if self._closed:
                    return
                await changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
