"""The timer of a connection."""

import asyncio
from collections.abc import Callable

NEVER = float("inf")


class Timer:
    """One timer for a deadline that often moves.

    A deadline that is put off moves nothing: the timer fires too early, once, and is set anew. So a
    request costs no timer.
    """

    __slots__ = ("_handle", "_late", "_loop", "by")

    def __init__(self, loop: asyncio.AbstractEventLoop, late: Callable[[], None]) -> None:
        self._loop = loop
        self._late = late
        self._handle: asyncio.TimerHandle | None = None
        self.by = NEVER

    def set(self, by: float) -> None:
        """Call `late` at `by`, of the loop's clock, unless it is set anew before."""
        self.by = by
        if by == NEVER:
            return
        if self._handle is not None:
            if self._handle.when() <= by:
                return
            self._handle.cancel()
        self._handle = self._loop.call_at(by, self._fire)

    def cancel(self) -> None:
        """Stop for good."""
        self.by = NEVER
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        del self._late  # a cycle would wait for the collector

    def _fire(self) -> None:
        self._handle = None
        if self.by <= self._loop.time():
            self._late()
        else:
            self.set(self.by)
