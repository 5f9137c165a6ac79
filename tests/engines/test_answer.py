"""Answers as iterators, and as they come to a sink."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import closing

import pytest

from inference_service.engines.answer import AHEAD, Answer
from inference_service.engines.http import Connections
from tests.engines.sockets import Reader, Server, Writer, ask, body, serving
from tests.engines.waiting import soon, until


@pytest.fixture
async def connections() -> AsyncIterator[Connections]:
    connections = Connections(keep_alive=True)
    yield connections
    await connections.aclose()


@pytest.fixture
def patient(connections: Connections, monkeypatch: pytest.MonkeyPatch) -> Connections:
    """Connections whose answers gather bytes as long as more can come."""
    monkeypatch.setattr("inference_service.engines.answer.GATHER", 3600)
    return connections


async def test_later_bytes_are_gathered_until_the_end(
    patient: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed: asyncio.Queue[bytes] = asyncio.Queue()
    take = Answer.data

    def noted(answer: Answer, data: bytes) -> None:
        take(answer, data)
        fed.put_nowait(data)

    monkeypatch.setattr(Answer, "data", noted)
    steps = [asyncio.Event() for _ in range(3)]

    async def slow(served: Server, reader: Reader, writer: Writer) -> None:
        await served.asked(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc")
        for step, piece in zip(steps, [b"de", b"fg", b"hi"], strict=True):
            await step.wait()
            writer.write(piece)

    async with serving(slow) as served:
        with closing(await ask(patient, served)) as answer:
            assert await anext(answer) == b"abc"
            rest = asyncio.create_task(anext(answer))
            await soon(fed.get(), "the first bytes")
            for step in steps:
                assert not rest.done()
                step.set()
                await soon(fed.get(), "the bytes of the next step")
            assert await rest == b"defghi"
            with pytest.raises(StopAsyncIteration):
                await anext(answer)


async def test_later_bytes_are_gathered_for_a_moment_only(connections: Connections) -> None:
    async def slow(served: Server, reader: Reader, writer: Writer) -> None:
        await served.asked(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\nabc")
        for read in reads:
            await read.wait()
            writer.write(b"def")
        assert await reader.read() == b""  # the client closes

    reads = [asyncio.Event() for _ in range(2)]
    async with serving(slow) as served:
        with closing(await ask(connections, served)) as answer:
            assert await anext(answer) == b"abc"
            for read in reads:
                read.set()
                assert await anext(answer) == b"def"


async def test_bytes_are_given_at_once_and_before_the_error_after_them(
    patient: Connections,
) -> None:
    read = asyncio.Event()

    async def cut(served: Server, reader: Reader, writer: Writer) -> None:
        await served.asked(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc")
        await read.wait()
        writer.write(b"def")

    async with serving(cut) as served:
        answer = await ask(patient, served)
        with closing(answer):
            assert await anext(answer) == b"abc"
            read.set()
            await served.tasks[0]
            assert await anext(answer) == b"def"
            with pytest.raises(ConnectionAbortedError, match="the engine closed the connection"):
                await anext(answer)


async def test_bytes_that_come_with_an_error_are_given_before_the_error(
    connections: Connections,
) -> None:
    async def garbles(served: Server, reader: Reader, writer: Writer) -> None:
        await served.asked(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        await begun.wait()
        writer.write(b"3\r\nabc\r\nno number\r\n")

    begun = asyncio.Event()
    async with serving(garbles) as served:
        with closing(await ask(connections, served)) as answer:
            begun.set()
            assert await anext(answer) == b"abc"
            with pytest.raises(ConnectionAbortedError, match="is no HTTP"):
                await anext(answer)


async def test_a_connection_is_used_again_although_its_answer_was_not_read(
    connections: Connections,
) -> None:
    large = b"x" * (AHEAD + 1)

    async def twice(served: Server, reader: Reader, writer: Writer) -> None:
        for _ in range(2):
            await served.asked(reader)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(large) + large)

    async def ended() -> bool:
        return answer._ended

    async with serving(twice) as served:
        with closing(await ask(connections, served)) as answer:
            await until(ended, "the client has the whole answer")
        assert await body(await ask(connections, served)) == large


async def test_closing_an_answer_that_goes_on_closes_the_connection(
    connections: Connections,
) -> None:
    async def goes_on(served: Server, reader: Reader, writer: Writer) -> None:
        await served.asked(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
        assert await reader.read() == b""

    async with serving(goes_on) as served:
        with closing(await ask(connections, served)) as answer:
            assert await anext(answer) == b"abc"


async def test_cancelling_the_request_closes_the_connection(connections: Connections) -> None:
    asked = asyncio.Event()

    async def silent(served: Server, reader: Reader, writer: Writer) -> None:
        await served.asked(reader)
        asked.set()
        assert await reader.read() == b""

    async with serving(silent) as served:
        asking = asyncio.create_task(ask(connections, served))
        await soon(asked.wait(), "the request")
        asking.cancel()


async def test_a_slow_reader_holds_the_engine_up(patient: Connections) -> None:
    piece = b"x" * 65536
    sent = 0
    full = asyncio.Event()
    total = 1000

    async def eager(served: Server, reader: Reader, writer: Writer) -> None:
        nonlocal sent
        await served.asked(reader)
        head = f"HTTP/1.1 200 OK\r\ncontent-length: {total * len(piece)}\r\n\r\n"
        writer.write(head.encode())
        for _ in range(total):
            writer.write(piece)
            try:
                async with asyncio.timeout(1):
                    await writer.drain()
            except TimeoutError:
                full.set()
                await writer.drain()
            sent += 1

    async with serving(eager) as served:
        with closing(await ask(patient, served)) as answer:
            await soon(full.wait(), "the server is held up", 60)
            held = sum(map(len, answer._body))
            assert sent < total  # the rest is in buffers of the kernel and of this server
            assert held <= AHEAD + 256 * 1024  # the most that one read of asyncio brings
            assert sum([len(data) async for data in answer]) == total * len(piece)
