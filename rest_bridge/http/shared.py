"""What the connections of one server share."""

from __future__ import annotations

import asyncio
from typing import Protocol

from rest_bridge.http.exchange import Exchange, Handler
from rest_bridge.http.limits import Limits
from rest_bridge.http.log import Log
from rest_bridge.http.outlet import Address

_READ = 64 << 10  # bytes that one read takes at most


class Member(Protocol):
    """A connection, as the others see it."""

    def close_idle(self) -> None:
        """Close, for no request runs."""

    def refuse_body(self) -> None:
        """Give up the request whose body is not whole."""

    def end(self) -> None:
        """Take no more requests, and close as soon as those that have come are answered."""

    def cancel(self) -> None:
        """Have the request that is answered ended by its handler, now."""

    def abort(self) -> None:
        """Close, whatever runs."""


class Begin(Protocol):
    """What makes the handler of a request."""

    def __call__(self, exchange: Exchange, client: Address, server: Address) -> Handler:
        """Return the handler. It may have answered already."""


class Shared:
    """The limits and the log, and which connections are open or idle."""

    def __init__(self, begin: Begin, limits: Limits, log: Log) -> None:
        self.begin = begin
        self.limits = limits
        self.log = log
        self.loop = asyncio.get_running_loop()
        self.connections = limits.connections  # how many there may be
        self.open: set[Member] = set()
        self.idle: dict[Member, None] = {}  # the longest idle first
        self.bodies = Bodies(limits.all_bodies)
        self.ending = False
        self.emptied = asyncio.Event()  # set when the last connection has closed
        # Each read goes here first, and is parsed before the next one: a connection has no buffer.
        self.buffer = memoryview(bytearray(_READ))

    def make_room(self) -> bool:
        """Return whether one more connection may be, after closing an idle one if need be."""
        if len(self.open) < self.connections:
            return True
        if not self.idle:
            return False
        longest = next(iter(self.idle))
        del self.idle[longest]
        self.log.warn(
            "full", "%d connections are open: closes the one that was idle longest", len(self.open)
        )
        longest.close_idle()
        return True

    def remove(self, connection: Member) -> None:
        """Forget a connection that has closed."""
        self.open.discard(connection)
        self.idle.pop(connection, None)
        self.bodies.forget(connection)
        if not self.open:
            self.emptied.set()


class Bodies:
    """How much has come of the bodies that are not whole, of all connections together."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._sizes: dict[Member, int] = {}
        self.total = 0

    def note(self, connection: Member, size: int) -> None:
        """Note the size of a body. When all are too large together, the largest is given up."""
        self.total += size - self._sizes.get(connection, 0)
        self._sizes[connection] = size
        if self.total > self._limit:
            largest = max(self._sizes, key=self._sizes.__getitem__)
            self.forget(largest)
            largest.refuse_body()

    def forget(self, connection: Member) -> None:
        """Note that a body is whole, or given up."""
        if self._sizes:
            self.total -= self._sizes.pop(connection, 0)
