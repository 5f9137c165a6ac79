"""The last lines that an engine wrote, and the lines to come."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator


class LogBuffer:
    """Keeps the last `size` lines; any number of readers may follow it.

    A reader that is slower than the engine by more than `size` lines loses the oldest.
    """

    def __init__(self, size: int = 1000) -> None:
        self._lines: deque[str] = deque(maxlen=size)
        self._count = 0
        self._closed = False
        self._changed = asyncio.Event()

    def append(self, line: str) -> None:
        """Add a line."""
        self._lines.append(line)
        self._count += 1
        self._wake()

    def close(self) -> None:
        """Say that no more lines come."""
        self._closed = True
        self._wake()

    def tail(self, count: int) -> tuple[str, ...]:
        """The last `count` lines, oldest first."""
        return tuple(self._lines)[-count:]

    async def follow(self) -> AsyncGenerator[str]:
        """Yield what is kept, then each new line, until the log is closed."""
        seen = self._count - len(self._lines)
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
