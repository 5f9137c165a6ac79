"""Proxies: for HTTPS, as the only way to some hosts, and of SOCKS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field


@dataclass
class Proxy:
    """A proxy that runs, and the hosts that it was asked for."""

    port: int = 0
    asked: list[str] = field(default_factory=list)


@asynccontextmanager
async def proxy(hosts: Mapping[str, int]) -> AsyncGenerator[Proxy]:
    """Run a proxy on all addresses; `hosts` are those it knows, as ports of this machine."""
    found = Proxy()

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer):
            head = await reader.readuntil(b"\r\n\r\n")
            method, target, _ = head.decode().split(" ", 2)
            host = target.partition(":")[0]
            found.asked.append(host)
            if method != "CONNECT" or host not in hosts:
                writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
                return
            to_host = await asyncio.open_connection("127.0.0.1", hosts[host])
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            with closing(to_host[1]):
                await asyncio.gather(_copy(reader, to_host[1]), _copy(to_host[0], writer))

    server = await asyncio.start_server(tunnel, "0.0.0.0")
    found.port = server.sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        server.close()


@asynccontextmanager
async def socks() -> AsyncGenerator[Proxy]:
    """Run a proxy of SOCKS 5 without a password, for addresses of version 4."""
    found = Proxy()

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer):
            _, methods = await reader.readexactly(2)
            await reader.readexactly(methods)
            writer.write(b"\5\0")
            *_, kind = await reader.readexactly(4)
            size = 4 if kind == 1 else (await reader.readexactly(1))[0]
            address = await reader.readexactly(size)
            host = ".".join(map(str, address)) if kind == 1 else address.decode()
            found.asked.append(host)
            port = int.from_bytes(await reader.readexactly(2), "big")
            to_host = await asyncio.open_connection(host, port)
            writer.write(b"\5\0\0\1" + bytes(6))
            with closing(to_host[1]):
                await asyncio.gather(_copy(reader, to_host[1]), _copy(to_host[0], writer))

    server = await asyncio.start_server(tunnel, "127.0.0.1")
    found.port = server.sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        server.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    writer.close()
