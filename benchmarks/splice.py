"""A relay of nothing: bytes between client and engine, after one look at the request.

`python -m benchmarks.splice PORT ENGINE_PORT [UVLOOP]`, where UVLOOP is a folder that has the
package. This is the floor of a relay in Python: it has no lease, queue, limit or error of its own,
and holds no writer back.
"""

from __future__ import annotations

import asyncio
import importlib
import socket
import sys

import httptools
import msgspec


class Look(msgspec.Struct):
    """What a relay must know of a request."""

    model: str = ""
    stream: bool = False


_look = msgspec.json.Decoder(Look).decode
_HEAD = b"POST %b HTTP/1.1\r\nhost: engine\r\ncontent-type: application/json\r\n"
_UNKNOWN = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"


class Upstream(asyncio.Protocol):
    """A connection to the engine, in the pool between two requests."""

    transport: asyncio.Transport

    def __init__(self, pool: list[Upstream]) -> None:
        self._pool = pool
        self._client: Client | None = None

    def ask(self, client: Client, payload: bytes) -> None:
        """Send a request, whose answer goes to the client."""
        self._client = client
        self._write = client.transport.write
        self._parser = httptools.HttpResponseParser(self)
        self.transport.write(payload)

    def leave(self) -> None:
        """Close the connection, because the client has gone."""
        self._client = None
        self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = _prompt(transport)

    def data_received(self, data: bytes) -> None:
        if self._client is not None:
            self._write(data)
            self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        assert self._client is not None
        self._client.upstream, self._client = None, None
        self._pool.append(self)

    def connection_lost(self, error: Exception | None) -> None:
        if self in self._pool:
            self._pool.remove(self)
        if self._client is not None:
            self._client.transport.abort()


class Client(asyncio.Protocol):
    """A connection of a client, which sends one request after the other."""

    transport: asyncio.Transport
    upstream: Upstream | None = None
    _url = b""

    def __init__(self, engine: int, pool: list[Upstream]) -> None:
        self._engine = engine
        self._pool = pool
        self._body: list[bytes] = []
        self.on_body = self._body.append  # for the parser

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = _prompt(transport)
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._url = url

    def on_message_complete(self) -> None:
        body = b"".join(self._body)
        self._body.clear()
        if _look(body).model != "bench":
            self.transport.write(_UNKNOWN)
            return
        payload = b"%bcontent-length: %d\r\n\r\n%b" % (_HEAD % self._url, len(body), body)
        if self._pool:
            self._ask(self._pool.pop(), payload)
        else:
            self._connecting = asyncio.ensure_future(self._connect(payload))

    def connection_lost(self, error: Exception | None) -> None:
        if self.upstream is not None:
            self.upstream.leave()

    async def _connect(self, payload: bytes) -> None:
        loop = asyncio.get_running_loop()
        _, upstream = await loop.create_connection(
            lambda: Upstream(self._pool), "127.0.0.1", self._engine
        )
        self._ask(upstream, payload)

    def _ask(self, upstream: Upstream, payload: bytes) -> None:
        self.upstream = upstream
        upstream.ask(self, payload)


def _prompt(transport: asyncio.Transport) -> asyncio.Transport:
    """Let a connection send each write at once."""
    transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return transport


async def main(port: str, engine_port: str) -> None:
    """Serve until the process is killed."""
    engine, pool = int(engine_port), list[Upstream]()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Client(engine, pool), "127.0.0.1", int(port), backlog=2048
    )
    await server.serve_forever()


if __name__ == "__main__":
    ports, folders = sys.argv[1:3], sys.argv[3:]
    if folders:
        sys.path[:0] = folders
        importlib.import_module("uvloop").install()
    asyncio.run(main(*ports))
