"""A server with the dialects alone, over a service whose answers follow a script."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import httpx
import pytest

from rest_bridge import Settings
from rest_bridge.app import create_app, front
from rest_bridge.http import Server
from rest_bridge.service import Forwarded, Metadata, Sink
from tests.rest_bridge.loopback import open_client

Play = Callable[[Forwarded, Sink], Awaitable[None]]


class Head(NamedTuple):
    status: int
    headers: dict[bytes, bytes]


class Scripted:
    """A service that only forwards, as `play` says; it is the source of its answers too."""

    target = "a script"

    def __init__(self) -> None:
        self.play: Play | None = None
        self.asked: list[tuple[Forwarded, Metadata]] = []
        self.entered = asyncio.Event()
        self.left = asyncio.Event()
        self.paused = asyncio.Event()
        self.flows = asyncio.Event()
        self.flows.set()

    async def answer(self, *_: Any) -> Any:
        raise NotImplementedError

    async def stream(self, *_: Any) -> None:
        raise NotImplementedError

    def forward(self, request: Forwarded, metadata: Metadata, sink: Sink) -> asyncio.Task[None]:
        self.asked.append((request, metadata))
        self.entered.set()
        return asyncio.create_task(self._forward(request, sink))

    async def _forward(self, request: Forwarded, sink: Sink) -> None:
        assert self.play is not None
        try:
            await self.play(request, sink)
        except asyncio.CancelledError:
            self.left.set()
            raise
        except Exception as error:
            sink.end(error)

    def pause(self) -> None:
        self.paused.set()
        self.flows.clear()

    def resume(self) -> None:
        self.flows.set()

    def head(self, sink: Sink, status: int = 200, kind: str = "application/json") -> None:
        sink.head(Head(status, {b"content-type": kind.encode(), b"server": b"x"}), self)


@pytest.fixture
async def script() -> Scripted:
    return Scripted()


@pytest.fixture
def early() -> float:
    return 60.0


@pytest.fixture
def settings() -> Settings:
    return Settings(max_body=4 << 20, cors_origin=["http://page.example"], access_log=False)


@pytest.fixture
async def server(
    script: Scripted, settings: Settings, early: float
) -> AsyncIterator[tuple[Server, int]]:
    app = create_app(script, settings)
    server = Server(app, route=front(app, early).route)
    listener = socket.create_server(("127.0.0.1", 0))
    server.start([listener])
    yield server, listener.getsockname()[1]
    await server.close(1)


@pytest.fixture
async def client(server: tuple[Server, int]) -> AsyncIterator[httpx.AsyncClient]:
    async with open_client(f"http://127.0.0.1:{server[1]}") as client:
        yield client
