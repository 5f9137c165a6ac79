"""Requests whose callers have left, until their engines have noticed that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from inference_service.engines import parting
from inference_service.engines.exchange import Request
from inference_service.engines.http import Connections
from tests.engines.sockets import GET, Reader, Server, Writer, ask, serving
from tests.engines.waiting import soon
from tests.sinks import Kept
from tests.waiting import until

POST = Request("POST", "/", b"{}")
HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n"


@pytest.fixture
async def connections() -> AsyncIterator[Connections]:
    connections = Connections(keep_alive=True)
    yield connections
    await connections.aclose()


class Works:
    """A server that learns of the end of its client, and closes when it is done."""

    def __init__(self, sends: bytes = HEAD) -> None:
        self._sends = sends
        self.asked, self.noticed, self.done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def __call__(self, served: Server, reader: Reader, writer: Writer) -> None:
        await served.asked(reader)
        writer.write(self._sends)
        self.asked.set()
        assert await reader.read() == b""
        self.noticed.set()
        await self.done.wait()


async def test_a_request_that_is_left_is_parting_until_the_engine_closes(
    connections: Connections,
) -> None:
    works = Works()
    async with serving(works) as served:
        answer = await ask(connections, served, POST)
        assert not connections.parting(served.instance)
        answer.close()
        (over,) = connections.parting(served.instance)
        await soon(works.noticed.wait(), "the engine learns of the end of its caller")
        assert not over.done()

        works.done.set()
        await soon(over, "the end of the connection")
        assert not connections.parting(served.instance)


async def test_a_request_that_is_cancelled_before_the_head_is_parting(
    connections: Connections,
) -> None:
    works = Works(b"")
    async with serving(works) as served:
        asking = asyncio.create_task(connections.ask(served.instance, POST, Kept()))
        await soon(works.asked.wait(), "the engine has the request")
        asking.cancel()
        await asyncio.wait([asking])
        (over,) = connections.parting(served.instance)
        works.done.set()
        await soon(over, "the end of the connection")


async def test_a_look_at_an_engine_is_no_work(connections: Connections) -> None:
    works = Works()
    works.done.set()
    async with serving(works) as served:
        (await ask(connections, served, GET)).close()
        assert not connections.parting(served.instance)


async def test_an_engine_that_has_not_read_the_request_does_not_work_on_it(
    connections: Connections,
) -> None:
    stopped = asyncio.Event()

    async def reads_nothing(served: Server, reader: Reader, writer: Writer) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await stopped.wait()

    async with serving(reads_nothing) as served:
        large = Request("POST", "/", b"x" * (32 << 20))
        asking = asyncio.create_task(connections.ask(served.instance, large, Kept()))
        await until(lambda: served.tasks, "the connection")
        await asyncio.sleep(0.1)
        asking.cancel()
        await asyncio.wait([asking])
        assert not connections.parting(served.instance)
        stopped.set()


async def test_an_engine_that_sends_on_is_reset(
    connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy between us and an engine can wait for the whole answer, whatever we have closed."""
    monkeypatch.setattr(parting, "_DEAF", 0.05)

    async def sends_on(served: Server, reader: Reader, writer: Writer) -> None:
        await served.asked(reader)
        writer.write(HEAD)
        with pytest.raises(ConnectionError):
            while True:
                writer.write(b"x" * 100)
                await writer.drain()
                await asyncio.sleep(0.01)

    async with serving(sends_on) as served:
        (await ask(connections, served, POST)).close()
        (over,) = connections.parting(served.instance)
        await soon(over, "the reset of the connection")


async def test_an_engine_that_never_closes_has_a_limit(
    connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parting, "LONGEST", 0.05)
    works = Works()
    async with serving(works) as served:
        (await ask(connections, served, POST)).close()
        (over,) = connections.parting(served.instance)
        await soon(over, "the limit")
        works.done.set()


async def test_closed_connections_wait_for_nothing() -> None:
    connections = Connections(keep_alive=True)
    works = Works()
    async with serving(works) as served:
        (await ask(connections, served, POST)).close()
        (over,) = connections.parting(served.instance)
        await connections.aclose()
        await soon(over, "the reset of the connection")
        works.done.set()
