"""The requests of one connection, which are read ahead and answered one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from rest_bridge.http.exchange import Exchange
from rest_bridge.http.outlet import Address, Outlet
from rest_bridge.http.refusal import Refusal
from rest_bridge.http.request import Request
from rest_bridge.http.shared import Shared


class Reader(Protocol):
    """What a pipeline needs of its connection, which reads."""

    def read_on(self) -> None:
        """Read more, if it was paused."""

    def stepped(self) -> None:
        """Read what can be read, now that a request less waits."""

    def finish(self) -> None:
        """End, for the last answer is out."""

    def cut(self, why: str) -> None:
        """End without an answer."""


class Pipeline:
    """The requests that have come and are not answered.

    `now` is answered; the body of `reading`, which is the same or the last in `queue`, still comes.
    The parser calls `begin`, `piece` and `complete`; each exchange has this as its wire.
    """

    __slots__ = (
        "_outlet", "_reader", "_shared", "_stepping",
        "begun", "behind", "last", "now", "queue", "reading", "write",
    )  # fmt: skip

    def __init__(self, reader: Reader, outlet: Outlet, shared: Shared) -> None:
        self._reader = reader
        self._outlet = outlet
        self.write = outlet.write
        self._shared = shared
        self._stepping = False
        self.now: Exchange | None = None
        self.reading: Exchange | None = None
        self.queue: list[Exchange] = []
        self.begun = 0  # how many requests have come
        self.last = False  # what follows is no request
        self.behind = False  # something has followed

    @property
    def empty(self) -> bool:
        """Whether no request waits or is answered."""
        return self.now is None and not self.queue

    @property
    def waiting(self) -> int:
        """How many bytes of bodies wait for their handlers."""
        return sum(exchange.waiting for exchange in self)

    def __iter__(self) -> Iterator[Exchange]:
        if self.now is not None:
            yield self.now
        yield from self.queue

    # The parser calls these.

    def begin(self, request: Request) -> None:
        """Have a request answered, or queue it."""
        if self.last:
            self.behind = True
            return
        self.begun += 1
        self.reading = exchange = Exchange(self, request)
        if self.empty and self._ready():
            self.now = exchange
            self._start(exchange)
        else:
            self.queue.append(exchange)

    def piece(self, data: bytes) -> None:
        """Take a part of a body."""
        if self.reading is not None:
            self.reading.came(data)

    def complete(self) -> None:
        """Take the end of a body."""
        exchange, self.reading = self.reading, None
        if exchange is not None:
            self.last = not exchange.request.keep_alive
            exchange.complete()
            if exchange.answer.done:
                self.step()

    # Exchanges call these.

    @property
    def client(self) -> Address:
        """The address of the client."""
        return self._outlet.client

    @property
    def slow(self) -> bool:
        """Whether more waits for the client than is good."""
        return self._outlet.slow

    def write_soon(self, exchange: Exchange) -> None:
        """Flush an exchange when what runs now has ended."""
        self._shared.loop.call_soon(exchange.flush)

    def read_on(self) -> None:
        """Read more of the body."""
        self._reader.read_on()

    def keeps(self, exchange: Exchange) -> bool:
        """Return whether the rest of a request is worth reading, for the sake of the next one."""
        if self._shared.ending:
            return False
        if exchange.whole:
            return True
        length = exchange.request.length
        if exchange.awaits_invitation or length is None:
            return False
        return length - exchange.received <= self._shared.limits.unread_bytes

    def note(self, exchange: Exchange) -> None:
        """Write the line of an access log."""
        if self._shared.log.access:
            log = self._shared.log
            log.answered(self._outlet.name, exchange.request, exchange.answer.status)

    def answered(self, exchange: Exchange) -> None:
        """Go on to the next request, or end."""
        exchange.drop()
        if not exchange.answer.keeps:
            self._reader.finish()
            return
        self.now = None
        if self.reading is exchange:  # its body is dropped, and at its end comes the next step
            self._reader.read_on()
        else:
            self.step()

    def fail(self, exchange: Exchange) -> None:
        """Answer for a handler that has not."""
        if exchange.sent:
            self._reader.cut("the answer was not whole")
            return
        if self._shared.ending:
            detail = "the server is shutting down; try again when it is back"
            exchange.refuse(Refusal(503, detail))
        else:
            exchange.refuse(Refusal(500, "a fault of the server; its log has the details"))

    # The connection calls these.

    def step(self) -> None:
        """Have the next requests answered."""
        if self._stepping:  # they can be answered at once, and then this is called in itself
            return
        self._stepping = True
        while self.now is None and self.queue and self._ready():
            self.now = self.queue.pop(0)
            self._start(self.now)
        self._stepping = False
        self._reader.stepped()

    def remove(self, exchange: Exchange) -> None:
        """Forget a request that was refused."""
        if self.reading is exchange:
            self.reading = None
        if self.now is exchange:
            self.now = None
        elif exchange in self.queue:
            self.queue.remove(exchange)

    def clear(self) -> list[Exchange]:
        """Forget all requests, and return them."""
        exchanges = [*self]
        self.now = self.reading = None
        self.queue.clear()
        return exchanges

    def _start(self, exchange: Exchange) -> None:
        outlet = self._outlet
        handler = self._shared.begin(exchange, outlet.client, outlet.server)
        if not exchange.answer.done:
            exchange.handler = handler

    def _ready(self) -> bool:
        return not (self._outlet.slow or self._outlet.gone)
