"""Progress events, few enough for a pipe."""

import time

from .events import emit

_INTERVAL_SECONDS = 0.25


class Progress:
    """Events with the bytes done of `total`: the first, the last, and four a second."""

    def __init__(self, event: str, file: str, total: int) -> None:
        self._event = event
        self._file = file
        self._total = total
        self._next = 0.0

    def at(self, completed: int) -> None:
        now = time.monotonic()
        if now >= self._next or completed == self._total:
            self._next = now + _INTERVAL_SECONDS
            emit(self._event, file=self._file, completed_bytes=completed, total_bytes=self._total)
