"""A time limit on silence."""

from __future__ import annotations

import asyncio
import math
from typing import Any, Self


class SilenceLimit:
    """A limit that ends an `async with` block with TimeoutError after `seconds` without a reset.

    A reset only notes the time, and the timer checks at its end whether it was early: to move the
    timer would take two timers for each token.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._limit = asyncio.timeout(None)
        self._loop = asyncio.get_running_loop()  # to ask for it costs as much as a token
        self._since = math.inf  # while paused

    async def __aenter__(self) -> Self:
        await self._limit.__aenter__()
        self.reset()
        self._check()
        return self

    async def __aexit__(self, *error: Any) -> None:
        self._timer.cancel()
        await self._limit.__aexit__(*error)

    def reset(self) -> None:
        """Count from now on."""
        self._since = self._loop.time()

    def pause(self) -> None:
        """Stop counting until the next reset."""
        self._since = math.inf

    def expired(self) -> bool:
        """Return whether the limit has ended the block."""
        return self._limit.expired()

    def _check(self) -> None:
        loop = self._loop
        left = min(self._since + self._seconds - loop.time(), self._seconds)
        if left > 0:
            self._timer = loop.call_later(left, self._check)
        else:
            self._limit.reschedule(loop.time())
