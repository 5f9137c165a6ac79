"""A request and its answer, between a connection and what answers.

This is the seam of the server. `Begin` is called for each request, and returns the `Handler` that
answers by the methods of the `Exchange`. One handler runs an ASGI application (`asgi`); a route can
have another, which then has the same limits, refusals and shutdown. All calls are made in the loop,
and none of them waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from rest_bridge.http.answer import Answer
from rest_bridge.http.outlet import Address
from rest_bridge.http.refusal import Refusal
from rest_bridge.http.request import Request


class Handler(Protocol):
    """What answers one request. It is told what has changed, and looks at its exchange."""

    def on_body(self) -> None:
        """More of the body has come, or its end: see `take` and `whole`."""

    def on_drained(self) -> None:
        """The client has read what it was `slow` to read."""

    def on_closed(self, by_server: bool) -> None:
        """End: the client has left, or, `by_server`, the server ends within a second.

        In the second case the handler can still answer.
        """


class Wire(Protocol):
    """What an exchange needs of its connection."""

    @property
    def client(self) -> Address:
        """The address of the client."""

    @property
    def slow(self) -> bool:
        """Whether more waits for the client than is good."""

    def write(self, data: bytes) -> None:
        """Send bytes, unless the client has left."""

    def write_soon(self, exchange: Exchange) -> None:
        """Call `flush` of the exchange when what runs now has ended."""

    def read_on(self) -> None:
        """Read more of the body."""

    def keeps(self, exchange: Exchange) -> bool:
        """Return whether the connection can stay after the answer."""

    def note(self, exchange: Exchange) -> None:
        """Note that the head of the answer leaves."""

    def answered(self, exchange: Exchange) -> None:
        """Note the end of the answer."""

    def fail(self, exchange: Exchange) -> None:
        """End an answer that has not come to its end."""


class Exchange:
    """One request and its answer."""

    __slots__ = ("_body", "_held", "_wire", "answer", "handler", "left", "received", "request",
                 "waiting", "whole")  # fmt: skip

    def __init__(self, wire: Wire, request: Request) -> None:
        self.request = request
        self.answer = Answer(request)
        self.handler: Handler | None = None  # before its turn in a pipeline
        self.received = 0  # bytes of the body
        self.waiting = 0  # those that the handler has not taken
        self.whole = False  # the end of the body has come
        self.left = False  # nobody waits for the answer
        self._wire = wire
        self._body: list[bytes] = []
        self._held = b""  # a head that waits for a body, so that both leave in one call

    # For the handler.

    @property
    def client(self) -> Address:
        """The address of the client, None where it has none."""
        return self._wire.client

    @property
    def slow(self) -> bool:
        """Whether the client is slow to read. Write no more until `on_drained`."""
        return self._wire.slow

    def take(self) -> bytes:
        """Return what has come of the body, and read on. The client may wait for this call."""
        if not self._body:
            if not self.whole:
                self._invite()
            return b""
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        self.waiting = 0
        if not self.whole:
            self._wire.read_on()
        return body

    def head(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Begin the answer. Raises ValueError for what is no head of HTTP.

        A head with a length leaves with the first part of its body, and another one soon.
        """
        if self.left:
            return
        self._held = self.answer.head(status, headers, self._wire.keeps(self))
        if not self.answer.has_length:
            self._wire.write_soon(self)

    def write(self, data: bytes, more: bool = True) -> None:
        """Send a part of the body; `more` is False for the last one.

        Raises ValueError before the head, after the end, and for another length than the head says.
        """
        if self.left:
            return
        data = self.answer.body(data, more)
        if self._held:
            data, self._held = self._held + data, b""
            self._wire.note(self)
        if data:
            self._wire.write(data)
        if not more:
            self.handler = None  # a cycle would wait for the collector
            self._wire.answered(self)

    def fail(self) -> None:
        """Give up: the client gets a 500, or sees by the end that the answer is not whole."""
        if not self.left and not self.answer.done:
            self._wire.fail(self)

    # For the connection.

    def refuse(self, refusal: Refusal) -> None:
        """Answer with a refusal, instead of what the handler began."""
        self._held = b""
        self.answer = Answer(self.request)
        length = (b"content-length", b"%d" % len(refusal.body))
        self.head(refusal.status, [(b"content-type", b"application/json"), length])
        self.write(refusal.body, more=False)

    @property
    def sent(self) -> bool:
        """Whether the head of the answer has left."""
        return self.answer.started and not self._held

    @property
    def awaits_invitation(self) -> bool:
        """Whether the client sends no body before an interim answer (100 Continue)."""
        return self.request.expects_continue and not (self.received or self.whole)

    def flush(self) -> None:
        """Send the head, if it still waits."""
        if self._held and not self.left:
            data, self._held = self._held, b""
            self._wire.note(self)
            self._wire.write(data)

    def drop(self) -> None:
        """Forget a head that has not left, and what has come of the body."""
        self._held = b""
        self._body.clear()
        self.waiting = 0

    def came(self, data: bytes) -> None:
        """Take a part of the body."""
        size = len(data)
        self.received += size
        if not (self.left or self.answer.done):
            self._body.append(data)
            self.waiting += size
            if self.handler is not None:
                self.handler.on_body()

    def complete(self) -> None:
        """Take the end of the body."""
        self.whole = True
        if self.handler is not None:
            self.handler.on_body()

    def leave(self, by_server: bool = False) -> None:
        """Report to the handler that nobody waits, unless the answer has ended."""
        if self.left or self.answer.done:
            return
        handler = self.handler
        if not by_server:
            self.left = True
            self.handler = None
            self.drop()
        if handler is not None:
            handler.on_closed(by_server)

    def _invite(self) -> None:
        if self.awaits_invitation and not self.answer.started and not self.left:
            self.request = self.request._replace(expects_continue=False)
            self._wire.write(b"HTTP/1.1 100 Continue\r\n\r\n")


Begin = Callable[[Exchange], Handler]
