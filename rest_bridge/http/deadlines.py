"""By when a client must have sent something, or read something."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from rest_bridge.http.limits import Limits
from rest_bridge.http.timer import NEVER, Timer


class Deadlines:
    """The two deadlines of a connection: one for what comes, and one for what waits to be read.

    `late` is called when nothing has come by its time, and `stuck` when nothing was read.
    """

    __slots__ = (
        "_base", "_late", "_limits", "_loop", "_read_by", "_since", "_stuck", "_timer", "_write_by",
    )  # fmt: skip

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limits: Limits,
        late: Callable[[], None],
        stuck: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._limits = limits
        self._late = late
        self._stuck = stuck
        self._timer = Timer(loop, self._fire)
        self._read_by = NEVER
        self._write_by = NEVER
        self._since = 0.0  # when the head or body began; 0 is not yet
        self._base = 0  # bytes of the body at that time

    def restart(self) -> None:
        """Count the time of the next head or body from its beginning."""
        self._since = 0.0

    def expect_request(self) -> None:
        """Wait for the first byte of the next request."""
        self._since = 0.0
        self._read_by = by = self._loop.time() + self._limits.idle_seconds
        self._timer.set(by if by < self._write_by else self._write_by)

    def expect_head(self) -> None:
        """Wait for the end of a head."""
        self._begin(0)
        self._set(self._since + self._limits.head_seconds)

    def expect_body(self, size: int) -> None:
        """Wait for the rest of a body of which `size` bytes have come."""
        now = self._begin(size)
        slowest = self._since + (size - self._base) / self._limits.body_rate
        self._set(min(now, slowest) + self._limits.body_seconds)

    def expect_nothing(self) -> None:
        """Wait for the server."""
        self._since = 0.0
        self._read_by = NEVER
        self._timer.by = self._write_by

    def expect_end(self, hurry: bool) -> None:
        """Wait until the client has closed."""
        now = self._begin(0)
        silence = self._limits.linger_seconds * (0.1 if hurry else 1)
        self._set(min(now + silence, self._since + self._limits.body_seconds))

    def expect_reading(self) -> None:
        """Wait until the client reads a part of what waits."""
        self._write_by = self._loop.time() + self._limits.write_seconds
        self._timer.set(min(self._read_by, self._write_by))

    def expect_no_reading(self) -> None:
        """Wait no more for that."""
        self._write_by = NEVER

    def cancel(self) -> None:
        """Stop for good."""
        self._timer.cancel()
        del self._late, self._stuck  # a cycle would wait for the collector

    def _begin(self, base: int) -> float:
        now = self._loop.time()
        if not self._since:
            self._since, self._base = now, base
        return now

    def _set(self, by: float) -> None:
        self._read_by = by
        self._timer.set(by if by < self._write_by else self._write_by)

    def _fire(self) -> None:
        now = self._loop.time()
        if self._write_by <= now:
            self._stuck()
        elif self._read_by <= now:
            self._late()
        else:
            self._timer.set(min(self._read_by, self._write_by))
