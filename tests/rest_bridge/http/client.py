"""A client that sends the bytes that it is given, in the segments that it is given."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp

from rest_bridge.http import Limits, Server
from rest_bridge.http.server import Route
from tests.waiting import PROMPTLY, within

GET = b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n"


def post(body: bytes = b'{"a": 1}', *fields: bytes, path: bytes = b"/echo") -> bytes:
    """Return a POST with a Content-Length, unless the fields have a framing."""
    if not any(f.lower().startswith((b"content-length", b"transfer-enc")) for f in fields):
        fields = (*fields, b"Content-Length: %d" % len(body))
    lines = b"".join(line + b"\r\n" for line in (b"Host: localhost", *fields))
    return b"POST %b HTTP/1.1\r\n%b\r\n%b" % (path, lines, body)


@dataclass
class Answer:
    """An answer as it came. `whole` is False when the connection ended within it."""

    status: int | None = None  # None: the connection ended before an answer
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    whole: bool = True
    interim: list[int] = field(default_factory=list)

    def __getitem__(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def detail(self) -> str:
        """The sentence of an error."""
        detail: str = self.json["detail"]
        return detail

    @property
    def by_app(self) -> bool:
        return self["x-app"] is not None


class Client:
    """A connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.buffer = b""
        self.ended = False
        self._loop = asyncio.get_running_loop()

    async def send(self, *segments: bytes) -> None:
        """Send segments, each of which the server reads before the next."""
        for segment in segments:
            await self._loop.sock_sendall(self.sock, segment)
            await settle()

    async def say(self, *segments: bytes) -> None:
        """Send segments to a server that may have closed."""
        try:
            await self.send(*segments)
        except OSError:
            self.ended = True

    async def answer(self, method: str = "GET") -> Answer:
        """Return the next answer."""
        async with within(PROMPTLY, f"no whole answer came; there is {self.buffer[:200]!r}"):
            return await self._answer(method)

    async def end(self) -> bytes:
        """Return what comes until the server closes."""
        async with within(PROMPTLY, "the server did not close the connection"):
            while await self.more():
                pass
        rest, self.buffer = self.buffer, b""
        return rest

    def half_close(self) -> None:
        """Send the end, and go on reading."""
        self.sock.shutdown(socket.SHUT_WR)

    def close(self, reset: bool = False) -> None:
        """Leave."""
        if reset:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    async def more(self) -> bool:
        """Read once. A reset is an end, too."""
        if self.ended:
            return False
        try:
            data = await self._loop.sock_recv(self.sock, 65536)
        except ConnectionError:
            data = b""
        self.ended = not data
        self.buffer += data
        return bool(data)

    async def until(self, mark: bytes) -> bytes | None:
        """Return what comes before a mark, or None when the connection ends before."""
        while mark not in self.buffer:
            if not await self.more():
                return None
        found, _, self.buffer = self.buffer.partition(mark)
        return found

    async def _answer(self, method: str) -> Answer:
        answer = Answer()
        while True:
            head = await self.until(b"\r\n\r\n")
            if head is None:
                return answer
            line, *fields = head.decode("latin-1").split("\r\n")
            version, status, _ = line.split(" ", 2)
            assert version == "HTTP/1.1"
            if int(status) >= 200:
                break
            answer.interim.append(int(status))
        answer.status = int(status)
        pairs = (line.partition(":") for line in fields)
        answer.headers = [(name.lower(), value.strip()) for name, _, value in pairs]
        if method != "HEAD" and answer.status not in (204, 304):
            await self._body(answer)
        return answer

    async def _body(self, answer: Answer) -> None:
        if answer["transfer-encoding"] is not None:
            await self._chunks(answer)
            return
        if (length := answer["content-length"]) is None:
            while await self.more():
                pass
            answer.body, self.buffer = self.buffer, b""
            return
        size = int(length)
        while len(self.buffer) < size and await self.more():
            pass
        answer.body, self.buffer = self.buffer[:size], self.buffer[size:]
        answer.whole = len(answer.body) == size

    async def _chunks(self, answer: Answer) -> None:
        while (line := await self.until(b"\r\n")) is not None:
            size = int(line, 16)
            while len(self.buffer) < size + 2 and await self.more():
                pass
            answer.body += self.buffer[:size]
            self.buffer = self.buffer[size + 2 :]
            if not size:
                return
        answer.whole = False


async def settle() -> None:
    """Let the server read what was sent, and answer what it can."""
    for _ in range(5):
        await asyncio.sleep(0)


@dataclass
class Serving:
    """A server that runs."""

    server: Server
    port: int

    async def connect(self, receive_buffer: int = 0) -> Client:
        """Connect; the test that is left closes."""
        sock = socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Client(sock)

    @asynccontextmanager
    async def client(self, receive_buffer: int = 0) -> AsyncIterator[Client]:
        """Connect for the time of the block."""
        client = await self.connect(receive_buffer)
        try:
            yield client
        finally:
            client.close()

    async def ask(self, *segments: bytes, method: str = "GET") -> Answer:
        """Send segments on a connection of their own, and return the first answer."""
        async with self.client() as client:
            await client.say(*segments)
            return await client.answer(method)


@asynccontextmanager
async def serving(
    app: ASGIApp,
    limits: Limits | None = None,
    *,
    route: Route | None = None,
    access_log: bool = False,
) -> AsyncIterator[Serving]:
    """Serve an application on a free port."""
    server = Server(app, limits, route=route, access_log=access_log)
    listener = socket.create_server(("127.0.0.1", 0))
    server.start([listener])
    try:
        yield Serving(server, listener.getsockname()[1])
    finally:
        await server.close(0.1)
