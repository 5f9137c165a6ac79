"""How much a client may send, and for how long it may stop."""

from __future__ import annotations

import asyncio
import time

import pytest

from rest_bridge.http import Limits
from tests.rest_bridge.http.app import App
from tests.rest_bridge.http.client import GET, Client, post, serving, settle
from tests.waiting import PROMPTLY, until, within

SHORT = Limits(head_seconds=0.1, body_seconds=0.1, idle_seconds=0.1, linger_seconds=0.1)
HALF = b"GET /hello HTTP/1.1\r\nHost: x\r\nX-A"
CHUNKED = b"Transfer-Encoding: chunked"
BLOCK = b"a" * 32768


@pytest.mark.parametrize(
    ("beginning", "block", "status", "word"),
    [
        (b"GET /", BLOCK, 414, "URL"),
        (b"GET /hello?", BLOCK, 414, "URL"),
        (HALF, BLOCK, 431, "head"),
        (HALF + b": ", BLOCK, 431, "head"),
        (HALF + b": 1\r\n", b"X-B: 2\r\n" * 100, 431, "head"),
        (b"", b"\r\n" * 16384, 431, "head"),
        (post(b"5;", CHUNKED), BLOCK, 431, "body"),
        (post(b"2\r\n{}\r\n0\r\nX-T: ", CHUNKED), BLOCK, 431, "body"),
        (post(b"2\r\n{}\r\n0\r\n", CHUNKED), b"x-t: aaaaaaaaaaaa\r\n" * 1024, 431, "body"),
    ],
    ids=[
        *("a path", "a query", "a name", "a value", "headers", "empty lines", "a chunk extension"),
        *("a trailer", "trailers"),
    ],
)
async def test_what_has_no_end_is_refused_at_64_kib(
    client: Client, beginning: bytes, block: bytes, status: int, word: str
) -> None:
    sent = 0
    await client.send(beginning)
    async with within(PROMPTLY, "what has no end was not refused"):
        while not (reading := asyncio.ensure_future(client.more())).done():
            await client.say(block)
            sent += len(block)
            if not reading.done():
                reading.cancel()
                await asyncio.wait([reading])
                continue
            break
    answer = await client.answer()

    assert (answer.status, word in answer.detail) == (status, True)
    assert sent < 300_000


async def test_a_thousand_headers_are_enough(client: Client) -> None:
    await client.send(GET[:-2] + b"A:1\r\n" * 999 + b"\r\n")
    assert (await client.answer()).status == 200
    await client.send(GET[:-2] + b"A:1\r\n" * 1000 + b"\r\n")
    answer = await client.answer()

    assert (answer.status, "1000 headers" in answer.detail) == (431, True)


async def test_what_is_allowed_before_and_behind_chunks(client: Client) -> None:
    extension = b";a=" + b"b" * 60_000
    chunks = b"2%b\r\n[1\r\n1\r\n]\r\n0%b\r\nX-T: %b\r\n\r\n" % (extension, b"", b"c" * 60_000)

    await client.send(post(chunks, CHUNKED))

    assert (await client.answer()).json == {"got": [1]}


@pytest.mark.parametrize(
    ("sent", "word"),
    [
        (HALF, "head"),
        (b"POST", "head"),
        (post(b"[1", b"Content-Length: 9"), "body"),
        (post(b"5\r\n[1", CHUNKED), "body"),
    ],
    ids=["head", "method", "body", "chunk"],
)
async def test_a_request_that_stops_half_way_is_refused_in_time(
    app: App, sent: bytes, word: str
) -> None:
    async with serving(app, SHORT) as served, served.client() as client:
        await client.send(sent)
        answer = await client.answer()

        assert (answer.status, word in answer.detail) == (408, True)
        await client.end()


async def test_a_request_that_stops_is_refused_behind_the_answer_before_it(app: App) -> None:
    async with serving(app, SHORT) as served, served.client() as client:
        await client.send(GET + HALF)

        assert (await client.answer()).status == 200
        assert (await client.answer()).status == 408


@pytest.mark.parametrize(
    ("sent", "drip"),
    [(HALF, b"a"), (post(b"", b"Content-Length: 9999"), b"a"), (post(b"", CHUNKED), b"1\r\na\r\n")],
    ids=["head", "body", "chunks"],
)
async def test_a_request_that_drips_is_refused_in_time(app: App, sent: bytes, drip: bytes) -> None:
    limits = Limits(head_seconds=0.3, body_seconds=0.3, body_rate=1000)
    async with serving(app, limits) as served, served.client() as client:
        began = time.monotonic()
        await client.send(sent)
        reading = asyncio.ensure_future(client.answer())
        while not reading.done():
            await client.say(drip)
            await asyncio.sleep(0.02)
        answer = await reading

    assert answer.status == 408
    assert time.monotonic() - began < PROMPTLY


async def test_a_body_that_is_slow_but_steady_is_served(app: App) -> None:
    """Each piece comes in time, and all are faster than the slowest rate."""
    limits = Limits(body_seconds=0.2, body_rate=1)
    async with serving(app, limits) as served, served.client() as client:
        await client.send(post(b"", b"Content-Length: 9"))
        for digit in b"[1,2,3,4]":
            await client.send(bytes([digit]))
            await asyncio.sleep(0.05)

        assert (await client.answer()).json == {"got": [1, 2, 3, 4]}


async def test_time_in_which_the_application_does_not_read_is_not_the_clients(app: App) -> None:
    limits = Limits(body_seconds=0.1, body_buffer=1000)
    async with serving(app, limits) as served, served.client() as client:
        await client.send(post(b"a" * 5000, b"Content-Length: 9999", path=b"/unread"))
        await asyncio.sleep(0.3)
        app.go.set()
        await client.send(b"a" * 4999)

        assert (await client.answer()).json == {"size": 9999}


async def test_an_idle_connection_is_closed_without_a_word(app: App) -> None:
    """A 408 would be taken for the answer to a request that is just being sent (nodejs#33440)."""
    async with serving(app, SHORT) as served, served.client() as client:
        await client.send(GET)
        await client.answer()

        assert await client.end() == b""


async def test_a_connection_without_a_request_is_closed_in_time(app: App) -> None:
    async with serving(app, SHORT) as served, served.client() as client:
        assert b"408" not in await client.end()


async def test_the_time_of_a_head_begins_with_its_first_byte(app: App) -> None:
    """nodejs#27363: it began with the connection, so a kept one failed after that time."""
    limits = Limits(head_seconds=0.2, idle_seconds=5)
    async with serving(app, limits) as served, served.client() as client:
        await client.send(GET)
        await client.answer()
        await asyncio.sleep(0.3)
        await client.send(HALF, b": 1\r\n\r\n")

        assert (await client.answer()).status == 200


async def test_an_answer_that_takes_long_is_not_idle(app: App) -> None:
    async with serving(app, SHORT) as served, served.client() as client:
        await client.send(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n" + HALF)
        await asyncio.sleep(0.3)
        app.go.set()

        assert (await client.answer()).json == {"slow": True}


async def test_a_client_that_reads_nothing_is_cut(app: App) -> None:
    limits = Limits(write_seconds=0.2)
    async with serving(app, limits) as served, served.client(receive_buffer=4096) as client:
        await client.send(b"GET /flood HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: not served.server.connections, "the client was not cut")

    assert app.taken < 12_000_000  # what the kernel and one buffer hold


async def test_a_client_that_reads_slowly_is_not_cut(app: App) -> None:
    limits = Limits(write_seconds=0.3)
    async with serving(app, limits) as served, served.client(receive_buffer=4096) as client:
        await client.send(b"GET /flood HTTP/1.1\r\nHost: x\r\n\r\n")
        ends = time.monotonic() + 1
        while time.monotonic() < ends:
            for _ in range(10):
                assert await client.more(), "the client was cut while it read"
            client.buffer = b""
            await asyncio.sleep(0.02)


async def test_a_body_that_the_application_does_not_read_waits_at_the_client(app: App) -> None:
    async with serving(app) as served, served.client() as client:
        client.sock.setblocking(False)
        await client.send(post(b"", b"Content-Length: 200000000", path=b"/unread"))
        sent = 0
        block = b"x" * 65536
        for _ in range(3000):
            try:
                sent += client.sock.send(block)
            except BlockingIOError:
                await settle()
                if sent and not _writable(client):
                    break

    assert sent < 20_000_000


async def test_unfinished_bodies_are_bounded_together(app: App) -> None:
    """The largest is given up; one that came at once is none of them."""
    limits = Limits(all_bodies=100_000)
    async with serving(app, limits) as served:
        clients = [await served.connect() for _ in range(4)]
        for number, client in enumerate(clients):
            await client.send(post(b"a" * (10_000 + 10_000 * number), b"Content-Length: 99999"))
        await clients[0].send(b"a" * 5_000)
        assert (await served.ask(post(b"[1]"))).status == 200
        await clients[0].say(b"a" * 20_000)
        answer = await clients[3].answer()
        for client in clients:
            client.close()

    assert (answer.status, answer["retry-after"]) == (503, "1")
    assert "bodies" in answer.detail


def _writable(client: Client) -> bool:
    try:
        return client.sock.send(b"x") > 0
    except BlockingIOError:
        return False
