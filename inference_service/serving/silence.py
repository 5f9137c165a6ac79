"""A time limit on silence."""

from __future__ import annotations

import asyncio
import math
from typing import Any, Self


class SilenceLimit:
    """Ends an `async with` block with TimeoutError after `seconds` in which nothing was heard.

    What is heard is only noted, and the timer looks whether it was early: to move it would take two
    timers for each token.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._limit = asyncio.timeout(None)
        self._since = math.inf  # that is never, while nobody listens

    async def __aenter__(self) -> Self:
        await self._limit.__aenter__()
        self.heard()
        self._look()
        return self

    async def __aexit__(self, *error: Any) -> None:
        self._timer.cancel()
        await self._limit.__aexit__(*error)

    def heard(self) -> None:
        """Begin anew, from now on."""
        self._since = asyncio.get_running_loop().time()

    def pause(self) -> None:
        """Do not count until something is heard."""
        self._since = math.inf

    def expired(self) -> bool:
        """Whether it has ended the block."""
        return self._limit.expired()

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        left = min(self._since + self._seconds - loop.time(), self._seconds)
        if left > 0:
            self._timer = loop.call_later(left, self._look)
        else:
            self._limit.reschedule(loop.time())
