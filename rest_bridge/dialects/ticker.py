"""One look at all calls that are open, in place of a timer for each."""

from __future__ import annotations

import asyncio
from typing import Protocol


class Open(Protocol):
    """A call that is open."""

    def look(self, now: float) -> None:
        """Do what is due; `now` is that of the look."""


class Ticker:
    """Looks at the calls every `period` seconds, while there are any."""

    def __init__(self, period: float) -> None:
        self.now = 0.0  # of the last look, on the clock of the loop
        self._period = period
        self._open: set[Open] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, call: Open) -> None:
        """Begin to look at a call."""
        self._open.add(call)
        if self._timer is None:
            self._tick()

    def remove(self, call: Open) -> None:
        """Look at a call no more."""
        self._open.discard(call)

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        self.now = loop.time()
        for call in [*self._open]:
            call.look(self.now)
        self._timer = loop.call_later(self._period, self._tick) if self._open else None
