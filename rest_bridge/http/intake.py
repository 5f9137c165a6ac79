"""What comes from a client: bytes, and the requests in them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from rest_bridge.http.outlet import Outlet
from rest_bridge.http.parser import Parser
from rest_bridge.http.pipeline import Pipeline
from rest_bridge.http.refusal import Refusal
from rest_bridge.http.shared import Shared

_SLICE = 8 << 10  # bytes parsed at once, which can hold 200 requests
_AT_ONCE = 100  # requests that are read before others have the loop


class Intake:
    """The reading half of a connection, which pauses when too much waits to be answered."""

    __slots__ = (
        "_loop", "_outlet", "_parser", "_pipeline", "_pipelined", "_refuse", "_rest", "_settle",
        "deaf", "paused",
    )  # fmt: skip

    def __init__(
        self,
        pipeline: Pipeline,
        outlet: Outlet,
        shared: Shared,
        refuse: Callable[[Refusal], None],
        settle: Callable[[], None],
    ) -> None:
        self._loop: asyncio.AbstractEventLoop = shared.loop
        self._pipelined = shared.limits.pipelined
        self._parser = Parser(pipeline, shared.limits)
        self._pipeline = pipeline
        self._outlet = outlet
        self._refuse = refuse
        self._settle = settle
        self._rest = b""  # bytes behind a full queue
        self.paused = False
        self.deaf = False  # nothing more is a request

    @property
    def begun(self) -> bool:
        """Whether a part of a head has come."""
        return self._parser.begun

    @property
    def waits(self) -> bool:
        """Whether bytes wait that can be parsed now."""
        return bool(self._rest) and len(self._pipeline.queue) < self._pipelined

    def feed(self, data: memoryview) -> None:
        """Parse bytes, and refuse what is no request."""
        try:
            if len(data) <= _SLICE and not self._pipeline.queue:
                self._parser.feed(data)
            else:
                self._feed_slices(data)
        except Refusal as refusal:
            self._refuse(refusal)

    def go_on(self) -> None:
        """Parse the bytes that wait, and then read."""
        if self._outlet.gone:
            return
        if self._rest and not self._over:
            rest, self._rest = self._rest, b""
            self.feed(memoryview(rest))
        self.read_on()
        self._settle()

    def pause(self) -> None:
        """Read no more, until `read_on`."""
        if not self.paused:
            self.paused = True
            self._outlet.transport.pause_reading()

    def read_on(self) -> bool:
        """Read again, unless bytes wait; return whether this was paused."""
        if not self.paused or self._outlet.gone or self._rest:
            return False
        self.paused = False
        self._outlet.transport.resume_reading()
        return True

    def end(self) -> None:
        """Take what comes for no request."""
        self.deaf = True
        self._rest = b""

    def release(self) -> None:
        """Break cycles, which would wait for the collector."""
        del self._parser, self._refuse, self._pipeline, self._settle

    @property
    def _over(self) -> bool:
        return self.deaf or self._outlet.gone

    def _feed_slices(self, data: memoryview) -> None:
        """Parse no more when the queue is full, or when the loop is held for long enough."""
        begun = self._pipeline.begun
        while data and not self._over:
            full = len(self._pipeline.queue) >= self._pipelined
            if full or self._pipeline.begun - begun > _AT_ONCE:
                self._rest = bytes(data)
                self.pause()
                if not full:
                    self._loop.call_soon(self.go_on)
                return
            self._parser.feed(data[:_SLICE])
            data = data[_SLICE:]
