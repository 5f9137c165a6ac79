"""Tests of the load generator, which counts and checks each token itself."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from benchmarks.command import request
from benchmarks.load import Work, WrongAnswer, ask
from benchmarks.rounds import BURST, PACED, UNARY
from benchmarks.systems import Running

FEW = replace(BURST, callers=3, tokens=20)


@pytest.mark.parametrize("work", [UNARY, FEW], ids=lambda work: work.name)
@pytest.mark.parametrize("face", ["tgi", "openai", "chat"])
def test_counts_the_tokens_of_the_engine(engine: Running, work: Work, face: str) -> None:
    asked = replace(engine, system=replace(engine.system, face=face))

    reading = ask(asked, work, 6)

    assert (reading.requests, reading.tokens) == (6, 6 * work.tokens)
    assert reading.token_p99_us == -1, "tokens without a stamp are not timed"


def test_times_paced_tokens(engine: Running) -> None:
    work = replace(PACED, callers=2, tokens=6, pace=10, skip=2)

    reading = ask(engine, work, 2)

    assert 0 <= reading.token_p50_us <= reading.token_p99_us < 5_000_000
    assert reading.request_p50_us >= 5 * 10_000


def test_the_engine_takes_the_name_that_a_router_has_for_the_number_of_tokens(
    engine: Running,
) -> None:
    body = b'{"model":"bench","max_completion_tokens":2,"messages":[]}'

    answer = request(engine.port, "POST", "/v1/chat/completions", body)

    assert answer["choices"][0]["message"]["content"] == " @0000 @0001"
    assert answer["usage"]["completion_tokens"] == 2


def test_the_engine_names_its_model(engine: Running) -> None:
    assert request(engine.port, "GET", "/v1/models")["data"][0]["id"] == "bench"


@asynccontextmanager
async def answering(engine: Running, body: bytes) -> AsyncIterator[Running]:
    """Serve a system that answers every request with this body."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield replace(engine, port=server.sockets[0].getsockname()[1])


@pytest.mark.parametrize(
    "body, complaint",
    [
        (b'{"generated_text":" @0000 @0001"}', ""),
        (b'{"generated_text":"@ @64 @0000 @0001"}', ""),
        (b'{"generated_text":" @0000"}', "has 1 tokens, not 2"),
        (b'{"generated_text":" @0000 @0001 @0002"}', "has 3 tokens, not 2"),
        (b'{"generated_text":" @0001 @0000"}', "token 0 came as number 1"),
        (b'{"generated_text":" @0000 @0000"}', "token 1 came as number 0"),
        (b'{"text":" @0000 @0001"}', "ends without generated_text"),
    ],
)
async def test_refuses_a_wrong_answer(engine: Running, body: bytes, complaint: str) -> None:
    work = Work("two tokens", 1, 2, streamed=False)
    async with answering(engine, body) as system:
        if not complaint:
            await asyncio.to_thread(ask, system, work, 1)
            return
        with pytest.raises(WrongAnswer, match=complaint):
            await asyncio.to_thread(ask, system, work, 1)


async def test_a_connection_that_is_not_needed_any_more_may_be_closed(engine: Running) -> None:
    hung_up = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        first = not hung_up.is_set()
        hung_up.set()
        if not first:
            await asyncio.sleep(0.1)  # until the load has seen that the other connection was closed
        body = b'{"generated_text":" @0000"}'
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        system = replace(engine, port=server.sockets[0].getsockname()[1])
        reading = await asyncio.to_thread(ask, system, Work("one", 2, 1, streamed=False), 2)

    assert reading.requests == 2


async def test_a_connection_that_is_closed_in_the_middle_is_a_wrong_answer(
    engine: Running,
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        system = replace(engine, port=server.sockets[0].getsockname()[1])
        with pytest.raises(WrongAnswer, match="hung up"):
            await asyncio.to_thread(ask, system, Work("one", 1, 1, streamed=False), 1)
