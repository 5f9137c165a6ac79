"""HTTP/1.1 towards engines, on connections that are kept as long as engines keep them.

This client is a write, llhttp's parser (httptools) and a read. In place of aiohttp's, it saves a
quarter of the CPU of a short text on gRPC, and a third with 64 callers (docs/performance.md). It
has no TLS, proxies, redirects, cookies or compression: engines on loopback use none of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from typing import Self

import httptools

AHEAD = 1 << 16  # bytes that are held for a slow reader, beyond those of one read


class Connections:
    """Connections to any number of engines, each used by one request at a time.

    Neither their number nor the time of an answer has a limit: only the caller knows how long a
    text may take. With `keep_alive` False, each request has a connection of its own. Times are in
    seconds:

    - `kept_for`: a connection that is not used for so long is closed.
    - `connect_timeout`: a busy engine does not need it, as its kernel accepts connections for it.
    - `gather`: between two reads of an answer, see `Answer`.
    """

    def __init__(
        self,
        *,
        keep_alive: bool,
        kept_for: float = 15.0,
        connect_timeout: float = 30.0,
        gather: float = 0.01,
    ) -> None:
        self.gather = gather
        self._keep_alive = keep_alive
        self._kept_for = kept_for
        self._connect_timeout = connect_timeout
        self._idle: dict[str, list[_Connection]] = {}  # by host and port, the last used last
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    async def ask(self, method: str, url: str, body: bytes | None = None) -> Answer:
        """Send a request, and return the answer when its head has come. A body is JSON.

        An engine may close a kept connection just as it is used again. In that case the engine has
        read nothing of the request, which is sent again on another connection. Raises OSError when
        the engine cannot be reached, breaks off, or sends something else than HTTP.
        """
        host, target = _parts(url)
        head = f"{method} {target} HTTP/1.1\r\nhost: {host}\r\n"
        if not self._keep_alive:
            head += "connection: close\r\n"
        if body is not None:
            head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        request = f"{head}\r\n".encode() + (body or b"")
        while idle := self._idle.get(host):
            connection = idle.pop()
            if connection.transport.is_closing():
                continue
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                return await Answer(self, connection).begun(request)
        return await Answer(self, await self._connect(host)).begun(request)

    def release(self, connection: _Connection) -> None:
        """Take back a connection whose answer has been read to its end."""
        if self._closed or not self._keep_alive:
            connection.transport.abort()
            return
        loop = asyncio.get_running_loop()
        connection.used_at = loop.time()
        self._idle.setdefault(connection.host, []).append(connection)
        if self._sweeper is None:
            self._sweeper = loop.call_later(self._kept_for, self._sweep)

    async def aclose(self) -> None:
        """Close the kept connections now, and each other one when its answer is closed."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connections in self._idle.values():
            for connection in connections:
                connection.transport.abort()
        self._idle.clear()

    async def _connect(self, host: str) -> _Connection:
        loop = asyncio.get_running_loop()
        address, _, port = host.rpartition(":")
        try:
            async with asyncio.timeout(self._connect_timeout):
                _, connection = await loop.create_connection(
                    lambda: _Connection(host), address.strip("[]"), int(port)
                )
        except TimeoutError:
            limit = f"{self._connect_timeout:g} s"
            raise TimeoutError(f"{host} does not accept a connection in {limit}") from None
        return connection

    def _sweep(self) -> None:
        self._sweeper = None
        loop = asyncio.get_running_loop()
        oldest = loop.time() - self._kept_for
        for host, connections in [*self._idle.items()]:
            while connections and connections[0].used_at <= oldest:
                connections.pop(0).transport.abort()
            if not connections:
                del self._idle[host]
        if self._idle:
            self._sweeper = loop.call_later(self._kept_for, self._sweep)


class _Connection(asyncio.Protocol):
    """A socket, with the answer that is being read from it, if any."""

    transport: asyncio.Transport

    def __init__(self, host: str) -> None:
        self.host = host
        self.answer: Answer | None = None
        self.used_at = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.answer is None:  # there was no request
            self.transport.abort()
        else:
            self.answer.feed(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self.answer is not None:
            self.answer.lost(error)


class Answer:
    """The answer to one request, as an iterator over the bytes of its body.

    Each step gives all bytes that have come. The first bytes and the end are given at once. Steps
    between them are 10 ms apart (`gather`), so that more bytes can come: engines write each token
    by itself, and a thousand tokens in a second are so passed on in a hundred steps.

    Call `close` in any case. Before the end of the answer `close` closes the connection, by which
    the engine learns that its caller has left.
    """

    def __init__(self, connections: Connections, connection: _Connection) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}  # names in small letters
        self._connections = connections
        self._connection = connection
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._size = 0
        self._framed = False  # it has a length or is chunked: it can end before the connection does
        self._ended = False
        self._reusable = False
        self._error: OSError | None = None
        self._read_at = -math.inf
        self._gather_time = connections.gather
        self._gathering = False
        self._change: asyncio.Future[None] | None = None  # for the reader that waits
        connection.answer = self

    @property
    def content_type(self) -> str:
        """The type of the body in small letters, without its parameters."""
        given = self.headers.get(b"content-type", b"").decode("latin-1")
        return given.partition(";")[0].strip().lower()

    async def begun(self, request: bytes) -> Self:
        """Send the request, and return when the head of the answer has come.

        Raises ConnectionResetError when the connection ends before the first byte of an answer.
        """
        try:
            self._connection.transport.write(request)
            while not self.status:
                await self._changed()
        except BaseException:
            self.close()
            raise
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while not self._body:
            if self._ended:
                raise StopAsyncIteration
            await self._changed()
        await self._gather()
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        if self._size > AHEAD:
            self._connection.transport.resume_reading()
        self._size = 0
        return body

    def close(self) -> None:
        """Release the connection, or close it if the answer goes on. Must not be called twice."""
        self._connection.answer = None
        del self._parser  # it refers to this answer, and a cycle is work for the garbage collector
        if self._reusable and not self._connection.transport.is_closing():
            self._connection.transport.resume_reading()
            self._connections.release(self._connection)
        else:
            self._connection.transport.abort()

    def feed(self, data: bytes) -> None:
        """Take bytes that the engine has sent."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if not self._ended:
                self._fail(ConnectionAbortedError(f"what the engine sent is no HTTP: {error}"))
            self._connection.transport.abort()
        if self._size > AHEAD:
            self._connection.transport.pause_reading()
        if not self._gathering or self._complete():
            self._wake()

    def lost(self, error: Exception | None) -> None:
        """Note the end of the connection."""
        if self._ended:
            return
        if self.status and not self._framed and error is None:
            self._ended = True
            self._wake()
        elif isinstance(error, OSError):
            self._fail(error)
        else:
            kind = ConnectionAbortedError if self.status else ConnectionResetError
            self._fail(kind("the engine closed the connection"))

    # The parser calls these.

    def on_message_begin(self) -> None:
        """Refuse a second answer to the one request."""
        if self._ended:
            raise ValueError("more than the answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note a header."""
        self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """Note the end of the head."""
        self.status = self._parser.get_status_code()
        self._framed = b"content-length" in self.headers or b"transfer-encoding" in self.headers

    def on_body(self, body: bytes) -> None:
        """Keep a piece of the body until it is read."""
        self._body.append(body)
        self._size += len(body)

    def on_message_complete(self) -> None:
        """Note the end of the body."""
        self._ended = True
        self._reusable = self._parser.should_keep_alive()

    async def _gather(self) -> None:
        loop = asyncio.get_running_loop()
        soonest = self._read_at + self._gather_time
        if loop.time() < soonest and not self._complete():
            self._gathering = True
            timer = loop.call_at(soonest, self._wake)
            try:
                await self._changed()
            finally:
                self._gathering = False
                timer.cancel()
        self._read_at = loop.time()

    def _complete(self) -> bool:
        """Return whether no more bytes can be added to those that are held."""
        return self._ended or self._size > AHEAD

    async def _changed(self) -> None:
        """Wait for more bytes. Raises the connection's error after the last byte was read."""
        if self._error is None:
            self._change = asyncio.get_running_loop().create_future()
            await self._change
        if self._error is not None and not self._body:
            raise self._error

    def _wake(self) -> None:
        if self._change is not None and not self._change.done():
            self._change.set_result(None)

    def _fail(self, error: OSError) -> None:
        self._error = self._error or error
        self._wake()


def _parts(url: str) -> tuple[str, str]:
    """Split `http://127.0.0.1:8080/generate` into the host with its port, and the rest."""
    host, _, path = url.removeprefix("http://").partition("/")
    return host, f"/{path}"
