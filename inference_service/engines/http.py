"""HTTP/1.1 towards engines, on connections that are kept as long as engines keep them.

This client is a write, llhttp's parser (httptools) and a read. In place of aiohttp's, it saves a
quarter of the CPU of a short text on gRPC, and a third with 64 callers (docs/performance.md). It
has no proxies, redirects, cookies or compression, and does not ask for them.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Collection
from typing import Self

import httptools

from inference_service.engines.exchange import Head, Request, Sink
from inference_service.engines.outgoing import Origin, fields_of, parts_of, payload_of
from inference_service.engines.parting import Parting, Partings
from inference_service.runtimes.base import Instance

LARGEST_HEAD = 1 << 16  # bytes; of what comes between two pieces of a body, too

_TOO_MUCH = "a head, or trailers, of more than 64 KiB"
_FRAMES = {b"content-length", b"transfer-encoding"}


class Connections:
    """Connections to any number of instances, each used by one request at a time.

    Neither their number nor the time of an answer has a limit: only the caller knows how long a
    text may take. With `keep_alive` False, each request has a connection of its own. Times are in
    seconds:

    - `kept_for`: a connection that is not used for so long is closed.
    - `connect_timeout`: a busy engine does not need it, as its kernel accepts connections for it.

    An instance at `https://` must have a certificate of a CA that the system trusts; OpenSSL's
    variables SSL_CERT_FILE and SSL_CERT_DIR name other CAs.
    """

    def __init__(
        self, *, keep_alive: bool, kept_for: float = 15.0, connect_timeout: float = 30.0
    ) -> None:
        self._keep_alive = keep_alive
        self._kept_for = kept_for
        self._connect_timeout = connect_timeout
        self._tls: ssl.SSLContext | None = None
        self._idle: dict[Origin, list[_Connection]] = {}  # the last used last
        self._partings = Partings()
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    async def ask(self, instance: Instance, request: Request, sink: Sink) -> Exchange:
        """Send a request, and return when its sink has the head of the answer.

        An engine may close a kept connection just as it is used again. In that case the engine has
        read nothing of the request, which is sent again on another connection. Raises OSError when
        the engine cannot be reached, breaks off, or sends something else than HTTP, before the sink
        has got anything; later the sink gets that error as the end. Cancelling the call closes the
        connection.
        """
        origin, base = parts_of(instance.url)
        payload = self._payload(instance, origin, base, request)
        works = request.method != "GET"
        while idle := self._idle.get(origin):
            connection = idle.pop()
            if connection.transport.is_closing():
                continue
            exchange = Exchange(self, connection, sink, works)
            try:
                return await exchange.begun(payload)
            except (ConnectionResetError, BrokenPipeError):
                if exchange.answered:
                    raise
        return await Exchange(self, await self._connect(origin), sink, works).begun(payload)

    def ask_now(self, instance: Instance, request: Request, sink: Sink) -> Exchange | None:
        """Send a request on a connection that is there already, and return; None without one.

        The sink gets the end in any case. It is a ConnectionResetError where the engine has closed
        the connection and has read nothing.
        """
        origin, base = parts_of(instance.url)
        while idle := self._idle.get(origin):
            connection = idle.pop()
            if connection.transport.is_closing():
                continue
            exchange = Exchange(self, connection, sink, request.method != "GET", alone=True)
            connection.transport.write(self._payload(instance, origin, base, request))
            return exchange
        return None

    def _payload(self, instance: Instance, origin: Origin, base: str, request: Request) -> bytes:
        added = tuple(instance.headers.items()) if instance.headers else ()
        fields = fields_of(origin, self._keep_alive, request.accept, request.content_type, added)
        return payload_of(base, fields, request)

    def parting(self, instance: Instance) -> Collection[asyncio.Future[None]]:
        """Return an end to wait for of each request that was left and may still be worked on."""
        return self._partings.of(parts_of(instance.url)[0])

    def part(self, connection: _Connection) -> None:
        """Leave a connection on which an engine may still work on a request."""
        connection.exchange = self._partings.begin(connection.origin, connection.transport)

    def release(self, connection: _Connection) -> None:
        """Take back a connection whose answer has ended."""
        if self._closed or not self._keep_alive:
            connection.transport.abort()
            return
        connection.used_at = time.monotonic()
        self._idle.setdefault(connection.origin, []).append(connection)
        if self._sweeper is None:
            loop = asyncio.get_running_loop()
            self._sweeper = loop.call_later(self._kept_for, self._sweep)

    async def aclose(self) -> None:
        """Close the kept connections now, and each other one when its answer has ended."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connections in self._idle.values():
            for connection in connections:
                connection.transport.abort()
        self._idle.clear()
        self._partings.abort()

    async def _connect(self, origin: Origin) -> _Connection:
        loop = asyncio.get_running_loop()
        if origin.secure and self._tls is None:
            self._tls = ssl.create_default_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        tls = self._tls if origin.secure else None
        try:
            async with asyncio.timeout(self._connect_timeout):
                _, connection = await loop.create_connection(
                    lambda: _Connection(origin), origin.host, origin.port, ssl=tls
                )
        except TimeoutError:
            limit = f"{self._connect_timeout:g} s"
            raise TimeoutError(f"{origin.shown} does not accept a connection in {limit}") from None
        except ssl.SSLCertVerificationError as error:
            reason = error.verify_message.rstrip(".")
            raise OSError(f"the certificate of {origin.shown} is not trusted: {reason}") from None
        except ssl.SSLError as error:
            raise OSError(f"{origin.shown} speaks no TLS: {error.reason or error}") from None
        return connection

    def _sweep(self) -> None:
        self._sweeper = None
        loop = asyncio.get_running_loop()
        oldest = time.monotonic() - self._kept_for
        for origin, connections in [*self._idle.items()]:
            while connections and connections[0].used_at <= oldest:
                connections.pop(0).transport.abort()
            if not connections:
                del self._idle[origin]
        if self._idle:
            self._sweeper = loop.call_later(self._kept_for, self._sweep)


class _Connection(asyncio.Protocol):
    """A socket, with the exchange that uses it, if any."""

    transport: asyncio.Transport

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.exchange: Exchange | Parting | None = None
        self.used_at = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.exchange is None:  # there was no request
            self.transport.abort()
        else:
            self.exchange.feed(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self.exchange is not None:
            self.exchange.lost(error)


class Exchange:
    """A request and its answer on one connection: the source of the sink that gets the answer."""

    def __init__(
        self,
        connections: Connections,
        connection: _Connection,
        sink: Sink,
        works: bool,
        *,
        alone: bool = False,
    ) -> None:
        self._connections = connections
        self._alone = alone  # no caller waits, and the sink gets an end without a head too
        self._works = works  # the engine, on this request
        self._connection = connection
        self._sink = sink
        self._status = 0
        self._headers: dict[bytes, bytes] = {}
        self._head_size = 0
        self._body: list[bytes] = []  # of one read
        self.on_body = self._body.append  # for the parser, as the methods below
        self._parser = httptools.HttpResponseParser(self)
        self._between = 0  # bytes since the last piece of the body
        self._begun = False  # the sink has the head
        self._whole = False
        self._reusable = False
        self._over = False
        self._error: Exception | None = None
        self._change: asyncio.Future[None] | None = None  # for the caller that waits
        connection.exchange = self

    @property
    def answered(self) -> bool:
        """Whether a byte of an answer has come."""
        return self._begun or self._between > 0

    async def begun(self, payload: bytes) -> Self:
        """Send the request, and return when the sink has the head.

        Raises ConnectionResetError when the connection ends before that.
        """
        self._connection.transport.write(payload)
        await self._changed()
        if self._error is not None and not self._begun:
            raise self._error
        return self

    async def ended(self) -> None:
        """Return when the sink has the end, or has closed its source.

        Raises the error of the end. Cancelling the call closes the connection.
        """
        if not self._over:
            await self._changed()
        if self._error is not None:
            raise self._error

    def pause(self) -> None:
        if not self._over:
            self._connection.transport.pause_reading()

    def resume(self) -> None:
        if not self._over:
            self._connection.transport.resume_reading()

    def close(self) -> None:
        if not self._over:
            self._leave(reusable=False, parts=self._works)
            self._wake()

    def feed(self, data: bytes) -> None:
        """Take bytes that the engine has sent."""
        broken: Exception | None = None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            reason = error.__context__ or error
            broken = ConnectionAbortedError(f"what the engine sent is no HTTP: {reason}")
        if self._status and not self._begun:
            self._begun = True
            self._sink.head(Head(self._status, self._headers), self)
            self._wake()
        if self._body and not self._over:
            body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
            self._body.clear()
            self._between = 0
            self._sink.data(body)
        elif not self._whole:
            self._between += len(data)
            if self._between > LARGEST_HEAD and broken is None:
                broken = ConnectionAbortedError(f"the engine sent {_TOO_MUCH}")
        if self._over:
            return
        if self._whole:
            self._finish(None, reusable=self._reusable and broken is None)
        elif broken is not None:
            self._finish(broken)

    def lost(self, error: Exception | None) -> None:
        """Note the end of the connection, which ends a body without a length or chunks."""
        if error is None and self._begun and _FRAMES.isdisjoint(self._headers):
            self._finish(None)
            return
        kind = ConnectionAbortedError if self.answered else ConnectionResetError
        self._finish(error or kind("the engine closed the connection"))

    # The parser calls these.

    def on_message_begin(self) -> None:
        """Refuse a second answer to the one request."""
        if self._whole:
            raise ValueError("more than the answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note a header; those after the body are dropped."""
        if self._status:
            return
        self._head_size += len(name) + len(value) + 4
        if self._head_size > LARGEST_HEAD:
            raise ValueError(_TOO_MUCH)
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """Note the end of the head. An interim answer (1xx) is not the answer."""
        status = self._parser.get_status_code()
        if status == 101:
            raise ValueError("a switch to another protocol")
        if status < 100:
            raise ValueError(f"an answer with the status {status}")
        if status >= 200:
            self._status = status
        else:
            self._headers.clear()

    def on_message_complete(self) -> None:
        """Note the end of the body, unless it is that of an interim answer."""
        if self._status:
            self._whole = True
            self._reusable = self._parser.should_keep_alive()

    def _finish(self, error: Exception | None, *, reusable: bool = False) -> None:
        sink = self._sink
        self._error = error
        self._leave(reusable=reusable)
        if self._begun or self._alone:
            sink.end(error)
        self._wake()

    def _leave(self, *, reusable: bool, parts: bool = False) -> None:
        """Give the connection back or close it, and break the cycles with parser and sink.

        With `parts` the engine may still work on the request, if the engine has the whole of it.
        """
        self._over = True
        connection, transport = self._connection, self._connection.transport
        connection.exchange = None
        del self._parser, self._sink
        # An engine that answers before it has read the whole request will not read the rest.
        whole = not transport.is_closing() and not transport.get_write_buffer_size()
        if whole and reusable:
            transport.resume_reading()
            self._connections.release(connection)
        elif whole and parts:
            self._connections.part(connection)
        else:
            transport.abort()

    async def _changed(self) -> None:
        self._change = asyncio.get_running_loop().create_future()
        try:
            await self._change
        except asyncio.CancelledError:
            self.close()
            raise

    def _wake(self) -> None:
        if self._change is not None and not self._change.done():
            self._change.set_result(None)
