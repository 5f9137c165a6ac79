"""The log of an engine: its last lines, and the lines to come."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncGenerator, Iterable

KEPT_LINES = 1000

_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}\b")
_HIDDEN = "***"


class LogBuffer:
    """The last lines of a log, without `secrets`, for any number of readers.

    A reader that is more than `size` lines behind the engine loses the oldest of them.
    """

    def __init__(self, secrets: Iterable[str] = (), size: int = KEPT_LINES) -> None:
        self._secrets = tuple(secrets)
        self._lines: deque[str] = deque(maxlen=size)
        self._count = 0
        self._closed = False
        self._changed = asyncio.Event()

    def append(self, line: str) -> None:
        """Add a line, with the secrets and any token of Hugging Face hidden."""
        for secret in self._secrets:
            line = line.replace(secret, _HIDDEN)
        line = _TOKEN.sub(_HIDDEN, line)
        self._lines.append(line)
        self._count += 1
        self._wake()

    def close(self) -> None:
        """End the log: the readers end after its last line."""
        self._closed = True
        self._wake()

    def tail(self, count: int) -> tuple[str, ...]:
        """Return the last `count` lines, oldest first."""
        return tuple(self._lines)[-count:] if count else ()

    async def follow(self, last: int = KEPT_LINES) -> AsyncGenerator[str]:
        """Yield the last lines, then each new line, until the log is closed."""
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
