"""Servers that follow scripts, to the byte, one on each new connection."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, closing

from inference_service.engines import relay
from inference_service.engines.answer import Answer
from inference_service.engines.exchange import Request
from inference_service.engines.http import Connections
from inference_service.runtimes.base import Instance
from tests.engines.waiting import soon

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
GET = Request("GET", "/")

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter
Script = Callable[["Server", Reader, Writer], Awaitable[None]]


class Server:
    """A server that follows the next script on each new connection."""

    def __init__(self, scripts: tuple[Script, ...]) -> None:
        self._scripts = list(scripts)
        self.instance = Instance("engine", "")
        self.heads: list[bytes] = []
        self.tasks: list[asyncio.Task[None]] = []

    @property
    def unused(self) -> int:
        """The number of scripts that no connection has followed."""
        return len(self._scripts)

    def connected(self, reader: Reader, writer: Writer) -> None:
        self.tasks.append(asyncio.create_task(self._follow(self._scripts.pop(0), reader, writer)))

    async def _follow(self, script: Script, reader: Reader, writer: Writer) -> None:
        try:
            await script(self, reader, writer)
        finally:
            writer.close()

    async def asked(self, reader: Reader) -> bytes:
        """Read the next request, and return its body."""
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        length = int(head.partition(b"content-length: ")[2].split(b"\r\n")[0] or 0)
        return await reader.readexactly(length)


@asynccontextmanager
async def serving(
    *scripts: Script, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> AsyncGenerator[Server]:
    """Run a server, each of whose scripts must come to its end."""
    served = Server(scripts)
    listener = await asyncio.start_server(served.connected, host, 0, ssl=tls)
    shown = f"[{host}]" if ":" in host else host
    port = listener.sockets[0].getsockname()[1]
    served.instance = Instance("engine", f"{'https' if tls else 'http'}://{shown}:{port}")
    async with listener:
        yield served
        await soon(asyncio.gather(*served.tasks), "the end of each script; some wait for a close")
    assert not served.unused


def sends(data: bytes) -> Script:
    """Make a script that reads a request, sends these bytes and waits for the client to close."""

    async def script(served: Server, reader: Reader, writer: Writer) -> None:
        await served.asked(reader)
        writer.write(data)
        assert await reader.read() == b""

    return script


async def once(served: Server, reader: Reader, writer: Writer) -> None:
    await served.asked(reader)
    writer.write(OK)


answers_and_waits = sends(OK)


async def ask(connections: Connections, served: Server, request: Request = GET) -> Answer:
    return await relay.answer(connections, served.instance, request)


async def body(answer: Answer) -> bytes:
    with closing(answer):
        return b"".join([data async for data in answer])


def has_ipv6() -> bool:
    """Return whether this machine has IPv6."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True
