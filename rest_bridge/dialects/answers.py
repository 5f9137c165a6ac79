"""The ways in which an answer of an engine goes to a client."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from rest_bridge.dialects.events import Events
from rest_bridge.dialects.shapes import Shape, of_engine
from rest_bridge.http.exchange import Exchange
from rest_bridge.sse import HEADERS

Headers = list[tuple[bytes, bytes]]

_LARGEST_ERROR = 64 << 10  # bytes of an engine's error
_PASSED = (b"content-type", b"content-length", b"retry-after")

EVENTS: Headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]


class Answer(Protocol):
    """What takes the body of an engine's answer."""

    def data(self, data: bytes) -> None:
        """Take the next bytes."""

    def end(self) -> None:
        """Take the end."""

    def fail(self, body: bytes) -> None:
        """End, for the answer is broken off; `body` is the error in the shape of the dialect."""


class Streaming(Answer, Protocol):
    """An answer that can show in a silence that it goes on."""

    silent: bool  # since this was last set

    def comment(self, text: str) -> None:
        """Show the client, and all between, that the answer goes on."""


class Whole:
    """An answer that is passed on as it comes."""

    def __init__(self, exchange: Exchange, status: int, headers: Iterable[tuple[bytes, bytes]]):
        self._exchange = exchange
        exchange.head(status, headers)

    def data(self, data: bytes) -> None:
        self._exchange.write(data)

    def end(self) -> None:
        self._exchange.write(b"", more=False)

    def fail(self, body: bytes) -> None:
        self._exchange.fail()


class Stream:
    """A stream of events. Comments go between two events, and so does an error."""

    def __init__(self, exchange: Exchange, added: Headers, shape: Shape) -> None:
        self._exchange = exchange
        self._events = Events()
        self._shape = shape
        self.silent = True  # since the last comment
        exchange.head(200, [*EVENTS, *added])

    def data(self, data: bytes) -> None:
        if data := self._events.feed(data):
            self.silent = False
            self._exchange.write(data)

    def end(self) -> None:
        self._exchange.write(self._events.rest(), more=False)

    def fail(self, body: bytes) -> None:
        if self._events.between:
            self._exchange.write(self._shape.event(body), more=False)
        else:
            self._exchange.fail()

    def comment(self, text: str) -> None:
        if self._events.between and not self._exchange.slow:
            # Some SDKs make an event of the empty line that could follow, and fail to parse it.
            self._exchange.write(f": {text}\n".encode())


class Error:
    """An error of an engine, which is put into the shape of the dialect by `write`."""

    def __init__(self, shape: Shape, status: int, write: Callable[[bytes], None]) -> None:
        self._shape = shape
        self._status = status
        self._write = write
        self._body = bytearray()

    def data(self, data: bytes) -> None:
        self._body += data[: _LARGEST_ERROR - len(self._body)]

    def end(self) -> None:
        self._write(of_engine(self._shape, self._status, bytes(self._body)))

    def fail(self, body: bytes) -> None:
        self._write(body)


def passed(headers: Iterable[tuple[bytes, bytes]], names: Iterable[bytes] = _PASSED) -> Headers:
    """Return the headers of an engine that go on to the client."""
    return [(name, value) for name, value in headers if name in names]
