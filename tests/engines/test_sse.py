"""The parser of events, and the requests behind a generation."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from inference_service.engines import sse
from inference_service.engines.http import Connections
from inference_service.errors import EngineFailed, EngineLost
from inference_service.runtimes.base import Instance
from tests.engines.scripted import plain, serving, stream
from tests.engines.waiting import soon

ONE = b'data: {"text":"caf\xc3\xa9"}\n\n'
STREAM = ONE + b"data:bare\n\n" + b": a comment\n\n" + b"data: last\n\n"
DATA = [b'{"text":"caf\xc3\xa9"}', b"bare", b"last"]


@pytest.fixture
async def connections() -> AsyncIterator[Connections]:
    connections = Connections(keep_alive=True)
    yield connections
    await connections.aclose()


def parse(*pieces: bytes) -> list[bytes]:
    parser = sse.EventParser()
    return [event for piece in pieces for event in events(parser.feed(piece))]


def events(lines: bytes) -> list[bytes]:
    return [line.strip() for line in lines.split(b"\n") if line]


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_events_are_the_same_wherever_the_bytes_are_split(newline: bytes) -> None:
    data = STREAM.replace(b"\n", newline)

    assert parse(data) == DATA
    for at in range(len(data)):
        assert parse(data[:at], data[at:]) == DATA
    assert parse(*(data[at : at + 1] for at in range(len(data)))) == DATA


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(b"data: a\ndata: b\n\n", [b"a  b"], id="data of two lines"),
        pytest.param(b": ping\ndata: a\n\n", [b"a"], id="a comment before the data"),
        pytest.param(b"event: x\nid: 1\ndata: a\nretry: 9\n\n", [b"a"], id="other fields"),
        pytest.param(b":\n\n: ping\n\n", [], id="comments alone"),
        pytest.param(b"\xef\xbb\xbfdata: a\n\ndata: b\n\n", [b"a", b"b"], id="a byte order mark"),
        pytest.param(b"\n\n\n\ndata: a\n\n\n\n", [b"a"], id="empty lines between"),
        pytest.param(b"data: a\n\ndata: b\n", [b"a"], id="an event without its end"),
        pytest.param(b"data: a:\r\ndata: b\r\n\r\n", [b"a:  b"], id="CRLF within an event"),
    ],
)
def test_an_event_is_its_data(data: bytes, expected: list[bytes]) -> None:
    assert parse(data) == expected


def test_an_event_is_held_until_it_is_complete_and_given_once() -> None:
    parser = sse.EventParser()

    assert parser.feed(ONE[:-1]) == b""
    assert events(parser.feed(b"\n")) == [DATA[0]]
    assert parser.feed(b"") == b""


def test_an_event_may_be_large_but_not_endless() -> None:
    parser = sse.EventParser()
    large = b"x" * (1 << 19)

    assert parser.feed(b"data: " + large) == b""
    assert events(parser.feed(b"\n\n")) == [large]
    with pytest.raises(EngineFailed, match="1 MiB"):
        for _ in range(3):
            parser.feed(large)


async def test_post_sends_json_and_yields_the_events_of_each_read(
    connections: Connections,
) -> None:
    async with serving(stream(b"data: a\n\ndata: b\n\ndata: ", b"c\n\n", b": ping\n\n")) as server:
        posted = sse.post(connections, server.instance, "/go", {"é": [1, None]})
        batches = [events(lines) async for lines in posted]

    assert batches == [[b"a", b"b"], [b"c"]]
    assert server.requests == [("/go", {"é": [1, None]})]


@pytest.mark.parametrize(
    ("status", "content_type"),
    [(422, "application/json"), (500, "text/event-stream"), (200, "text/plain")],
)
async def test_another_answer_than_a_stream_of_events_is_a_refusal(
    connections: Connections, status: int, content_type: str
) -> None:
    async with serving(plain(status, b'{"error":"no"}', content_type=content_type)) as server:
        with pytest.raises(sse.Refusal) as refused:
            await anext(sse.post(connections, server.instance, "/", {}))

    assert (refused.value.status, refused.value.body) == (status, b'{"error":"no"}')


async def test_a_refusal_has_the_whole_body_however_it_comes(connections: Connections) -> None:
    async with serving(plain(422, b'{"error":', b'"no"}')) as server:
        with pytest.raises(sse.Refusal) as refused:
            await anext(sse.post(connections, server.instance, "/", {}))

    assert refused.value.body == b'{"error":"no"}'


async def test_only_the_beginning_of_an_endless_refusal_is_read(
    connections: Connections,
) -> None:
    pieces = [b"x" * 4096] * 8
    async with serving(stream(*pieces, end="hold", content_type="text/plain")) as server:
        with pytest.raises(sse.Refusal) as refused:
            await anext(sse.post(connections, server.instance, "/", {}))
        await server.until_left()

    assert 0 < len(refused.value.body) <= 16 << 10
    assert refused.value.text == "x" * 300


@pytest.mark.parametrize(
    ("body", "text"),
    [
        pytest.param(b" a\n\tb  c ", "a b c", id="on one line"),
        pytest.param(b"", "(empty)", id="empty"),
        pytest.param(b"caf\xc3", "caf�", id="not UTF-8"),
    ],
)
def test_a_refusal_shows_its_body_to_people(body: bytes, text: str) -> None:
    assert sse.Refusal(500, body).text == text


async def test_fetch_sends_json_and_gives_the_json_of_the_answer(
    connections: Connections,
) -> None:
    async with serving(plain(200, b'{"a":', b"1}", header="X-Some: Yes")) as server:
        body, headers = await sse.fetch(connections, server.instance, "/go", {"é": [1, None]})

    assert (body, headers[b"x-some"]) == (b'{"a":1}', b"Yes")
    assert server.requests == [("/go", {"é": [1, None]})]


@pytest.mark.parametrize(
    ("status", "content_type"),
    [(422, "application/json"), (200, "text/event-stream"), (200, "text/plain")],
)
async def test_an_answer_that_is_no_json_is_a_refusal_to_fetch(
    connections: Connections, status: int, content_type: str
) -> None:
    async with serving(plain(status, b'{"error":"no"}', content_type=content_type)) as server:
        with pytest.raises(sse.Refusal) as refused:
            await sse.fetch(connections, server.instance, "/", {})

    assert (refused.value.status, refused.value.body) == (status, b'{"error":"no"}')


async def test_an_endless_answer_is_not_fetched(
    connections: Connections,
) -> None:
    pieces = [b"x" * 4096] * 8
    async with serving(stream(*pieces, end="hold", content_type="application/json")) as server:
        with pytest.raises(EngineFailed, match="sent an answer of more than 10000 bytes"):
            await sse.fetch(connections, server.instance, "/", {}, most=10_000)
        await server.until_left()


async def test_an_answer_cut_while_fetched_is_a_failure_of_the_engine(
    connections: Connections,
) -> None:
    cut = stream(b'{"a":', end="cut", content_type="application/json")
    async with serving(cut) as server:
        with pytest.raises(EngineLost, match="broke the connection"):
            await sse.fetch(connections, server.instance, "/", {})
    with pytest.raises(EngineLost, match=r"broke the connection: .+"):
        await sse.fetch(connections, unused(), "/", {})


async def test_cancelling_a_fetch_closes_the_connection(connections: Connections) -> None:
    held = stream(b'{"a":', end="hold", content_type="application/json")
    async with serving(held) as server:
        fetching = asyncio.create_task(sse.fetch(connections, server.instance, "/", {}))
        await server.until_answered()
        fetching.cancel()
        await server.until_left()


async def test_a_cut_connection_is_a_failure_of_the_engine(connections: Connections) -> None:
    async with serving(stream(b"data: a\n\n", end="cut")) as server:
        batches = sse.post(connections, server.instance, "/", {})
        assert events(await anext(batches)) == [b"a"]
        with pytest.raises(EngineFailed, match="broke the connection"):
            await anext(batches)


async def test_a_refused_connection_is_a_failure_of_the_engine(connections: Connections) -> None:
    with pytest.raises(EngineFailed, match=r"broke the connection: .+"):
        await anext(sse.post(connections, unused(), "/", {}))


async def test_closing_a_post_closes_the_connection(connections: Connections) -> None:
    async with serving(stream(b"data: a\n\n", end="hold")) as server:
        async with aclosing(sse.post(connections, server.instance, "/", {})) as batches:
            await anext(batches)
            assert not server.left.is_set()

        await server.until_left()


async def test_cancelling_the_reader_of_a_post_closes_the_connection(
    connections: Connections,
) -> None:
    async with serving(stream(b"data: a\n\n", end="hold")) as server:
        seen = asyncio.Event()

        async def read() -> None:
            async with aclosing(sse.post(connections, server.instance, "/", {})) as batches:
                async for _ in batches:
                    seen.set()

        reader = asyncio.create_task(read())
        await soon(seen.wait(), "the first events")
        reader.cancel()

        await server.until_left()


@pytest.mark.parametrize(("status", "ready"), [(200, True), (204, False), (503, False)])
async def test_answers_is_true_of_a_200_alone(
    connections: Connections, status: int, ready: bool
) -> None:
    async with serving(plain(status)) as server:
        assert await sse.answers(connections, server.instance, "/health") is ready

    assert server.requests == [("/health", None)]


async def test_answers_never_raises(connections: Connections) -> None:
    assert await sse.answers(connections, unused(), "/") is False


def unused() -> Instance:
    """Return an instance at whose port nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return Instance("unused", f"http://127.0.0.1:{server.getsockname()[1]}")
