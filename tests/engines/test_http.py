"""Connections to engines, with servers that follow scripts of the tests."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import pytest

from inference_service.engines.exchange import Request
from inference_service.engines.http import LARGEST_HEAD, Connections
from inference_service.runtimes.base import Instance
from tests.engines.sockets import (
    GET,
    OK,
    Reader,
    Server,
    Writer,
    answers_and_waits,
    ask,
    body,
    has_ipv6,
    once,
    sends,
    serving,
)
from tests.engines.waiting import soon
from tests.sinks import Kept


@pytest.fixture
async def connections() -> AsyncIterator[Connections]:
    connections = Connections(keep_alive=True)
    yield connections
    await connections.aclose()


async def test_a_connection_is_used_again(connections: Connections) -> None:
    async def twice(served: Server, reader: Reader, writer: Writer) -> None:
        for _ in range(2):
            assert await served.asked(reader) == b'{"a":1}'
            writer.write(OK)

    async with serving(twice) as served:
        for path in ("/one", "/two?x=1"):
            request = Request("POST", path, b'{"a":1}', "application/json")
            assert await body(await ask(connections, served, request)) == b"ok"

    host = served.instance.url.removeprefix("http://").encode()
    assert served.heads == [
        b"POST %b HTTP/1.1\r\nhost: %b\r\ncontent-type: application/json\r\n"
        b"content-length: 7\r\n\r\n" % (path, host)
        for path in (b"/one", b"/two?x=1")
    ]


async def test_without_keep_alive_each_request_has_its_own() -> None:
    connections = Connections(keep_alive=False)
    async with serving(answers_and_waits, answers_and_waits) as served:
        for _ in range(2):
            assert await body(await ask(connections, served)) == b"ok"

    assert all(b"\r\nconnection: close\r\n" in head for head in served.heads)
    assert served.heads[0].startswith(b"GET / HTTP/1.1\r\n")


async def test_two_requests_at_once_have_two_connections(connections: Connections) -> None:
    both = asyncio.Barrier(2)

    async def once(served: Server, reader: Reader, writer: Writer) -> None:
        await served.asked(reader)
        await both.wait()
        writer.write(OK)

    async with serving(once, once) as served:
        answers = await asyncio.gather(*(ask(connections, served) for _ in range(2)))
        assert [await body(answer) for answer in answers] == [b"ok", b"ok"]


async def test_a_kept_connection_that_is_closed_meanwhile_is_not_used(
    connections: Connections,
) -> None:
    gone = asyncio.Event()

    async def once(served: Server, reader: Reader, writer: Writer) -> None:
        await served.asked(reader)
        writer.write(OK)
        await gone.wait()

    async with serving(once, once) as served:
        assert await body(await ask(connections, served)) == b"ok"
        gone.set()
        await served.tasks[0]
        await asyncio.sleep(0.05)  # the client may or may not know of it by now: both must work
        assert await body(await ask(connections, served)) == b"ok"


async def test_a_request_on_a_kept_connection_that_is_closed_unread_is_sent_again(
    connections: Connections,
) -> None:
    async def closes(served: Server, reader: Reader, writer: Writer) -> None:
        await served.asked(reader)
        writer.write(OK)
        await reader.readexactly(1)

    async def once(served: Server, reader: Reader, writer: Writer) -> None:
        assert await served.asked(reader) == b"again"
        writer.write(OK)

    async with serving(closes, once) as served:
        assert await body(await ask(connections, served, Request("POST", "/", b"first"))) == b"ok"
        assert await body(await ask(connections, served, Request("POST", "/", b"again"))) == b"ok"


async def test_a_new_connection_that_is_closed_unread_is_an_error(
    connections: Connections,
) -> None:
    async def closes(served: Server, reader: Reader, writer: Writer) -> None:
        await served.asked(reader)

    async with serving(closes) as served:
        with pytest.raises(ConnectionResetError, match="the engine closed the connection"):
            await ask(connections, served)


async def test_a_refused_connection_is_an_error(connections: Connections) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        unused = Instance("unused", f"http://127.0.0.1:{listener.getsockname()[1]}")

    with pytest.raises(ConnectionRefusedError):
        await connections.ask(unused, GET, Kept())


async def test_an_engine_that_does_not_accept_is_an_error() -> None:
    connections = Connections(keep_alive=True, connect_timeout=0.1)
    with socket.socket() as listener, socket.socket() as fills:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fills.connect(listener.getsockname())
        busy = Instance("busy", f"http://127.0.0.1:{listener.getsockname()[1]}")

        with pytest.raises(TimeoutError, match=r"127\.0\.0\.1:\d+ does not accept a connection"):
            await connections.ask(busy, GET, Kept())


@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_an_answer_is_the_same_wherever_it_is_split(
    connections: Connections, size: int
) -> None:
    data = (
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: Text/Event-Stream; charset=utf-8\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    )

    async def split(served: Server, reader: Reader, writer: Writer) -> None:
        await served.asked(reader)
        for at in range(0, len(data), size):
            writer.write(data[at : at + size])
            await asyncio.sleep(0)

    async with serving(split) as served:
        answer = await ask(connections, served)
        assert (answer.status, answer.content_type) == (503, "text/event-stream")
        assert await body(answer) == b"abcde"


async def test_a_body_without_a_length_ends_with_the_connection(connections: Connections) -> None:
    async def unframed(served: Server, reader: Reader, writer: Writer) -> None:
        await served.asked(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nabc")

    async with serving(unframed) as served:
        assert await body(await ask(connections, served)) == b"abc"


@pytest.mark.parametrize("data", [b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n"])
async def test_an_answer_that_is_no_http_is_an_error(connections: Connections, data: bytes) -> None:
    async def other(served: Server, reader: Reader, writer: Writer) -> None:
        await served.asked(reader)
        writer.write(data)
        await reader.read()

    async with serving(other) as served:
        with pytest.raises(ConnectionAbortedError, match="is no HTTP"):
            await ask(connections, served)


@pytest.mark.parametrize("late", [False, True], ids=["with it", "after it"])
async def test_a_connection_with_more_than_the_answer_is_closed(
    connections: Connections, late: bool
) -> None:
    more = asyncio.Event()

    async def chatters(served: Server, reader: Reader, writer: Writer) -> None:
        await served.asked(reader)
        if late:
            writer.write(OK)
            await more.wait()
            writer.write(OK)
        else:
            writer.write(OK + OK)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""

    async with serving(chatters, once) as served:
        assert await body(await ask(connections, served)) == b"ok"
        more.set()
        # An unused connection is closed after 15 seconds.
        await soon(served.tasks[0], "the client closes the connection", 5)
        assert await body(await ask(connections, served)) == b"ok"


async def test_a_connection_that_the_engine_will_close_is_not_kept(
    connections: Connections,
) -> None:
    async def once(served: Server, reader: Reader, writer: Writer) -> None:
        await served.asked(reader)
        writer.write(OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
        assert await reader.read() == b""

    async with serving(once, once) as served:
        for _ in range(2):
            assert await body(await ask(connections, served)) == b"ok"


async def test_a_connection_is_not_kept_for_ever() -> None:
    connections = Connections(keep_alive=True, kept_for=0.05)

    async with serving(answers_and_waits, answers_and_waits) as served:
        answers = await asyncio.gather(*(ask(connections, served) for _ in range(2)))
        assert [await body(answer) for answer in answers] == [b"ok", b"ok"]


async def test_closing_closes_kept_connections_and_keeps_no_more(
    connections: Connections,
) -> None:
    closed = asyncio.Event()

    async def ends_late(served: Server, reader: Reader, writer: Writer) -> None:
        await served.asked(reader)
        writer.write(OK[:-1])
        await closed.wait()
        writer.write(OK[-1:])
        assert await reader.read() == b""  # the client closes

    async with serving(ends_late, answers_and_waits) as served:
        late = await ask(connections, served)
        assert await body(await ask(connections, served)) == b"ok"
        await connections.aclose()
        await served.tasks[1]
        closed.set()
        assert await body(late) == b"ok"


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
async def test_an_address_may_be_one_of_ipv6(connections: Connections) -> None:
    async with serving(once, host="::1") as served:
        assert await body(await ask(connections, served)) == b"ok"

    assert b"\r\nhost: [::1]:" in served.heads[0]


@pytest.mark.parametrize(
    ("url", "host", "port", "secure", "line"),
    [
        ("http://engine", "engine", 80, False, "GET /go HTTP/1.1\r\nhost: engine\r\n"),
        ("https://engine/", "engine", 443, True, "GET /go HTTP/1.1\r\nhost: engine\r\n"),
        ("http://engine:1/v1", "engine", 1, False, "GET /v1/go HTTP/1.1\r\nhost: engine:1\r\n"),
        ("https://engine/a/b/", "engine", 443, True, "GET /a/b/go HTTP/1.1\r\nhost: engine\r\n"),
        ("https://[::1]/v1", "::1", 443, True, "GET /v1/go HTTP/1.1\r\nhost: [::1]\r\n"),
    ],
)
async def test_an_instance_says_where_to_connect_and_under_what_path(
    connections: Connections,
    monkeypatch: pytest.MonkeyPatch,
    url: str,
    host: str,
    port: int,
    secure: bool,
    line: str,
) -> None:
    async def connect(make: Callable[[], Any], host: str, port: int, ssl: object) -> Any:
        connected.append((host, port, ssl is not None))
        connection = make()
        connection.transport = transport
        asyncio.get_running_loop().call_soon(connection.connection_lost, None)
        return transport, connection

    connected: list[tuple[str, int, bool]] = []
    transport = Mock(spec=asyncio.Transport)
    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", connect)

    with pytest.raises(ConnectionResetError):
        await connections.ask(Instance("engine", url), Request("GET", "/go"), Kept())

    assert connected == [(host, port, secure)]
    assert transport.write.call_args.args[0].decode().startswith(line)


async def test_the_headers_of_an_instance_go_along_and_are_not_replaced() -> None:
    connections = Connections(keep_alive=False)
    async with serving(once, once) as served:
        headers = {"Authorization": "Bearer x", "Accept": "text/plain", "Host": "other"}
        keyed = replace(served.instance, headers=headers)
        request = Request("GET", "/", accept="*/*")
        for instance in (keyed, served.instance):
            await (await connections.ask(instance, request, Kept())).ended()

    first, second = served.heads
    assert first == (
        b"GET / HTTP/1.1\r\nhost: other\r\nconnection: close\r\naccept: text/plain\r\n"
        b"authorization: Bearer x\r\n\r\n"
    )
    assert b"accept: */*\r\n" in second and b"authorization" not in second


async def test_a_request_that_has_a_body_by_its_method_says_its_length(
    connections: Connections,
) -> None:
    async with serving(answers_and_waits) as served:
        assert await body(await ask(connections, served, Request("POST", "/"))) == b"ok"
        await connections.aclose()

    assert served.heads[0].endswith(b"\r\ncontent-length: 0\r\n\r\n")


async def test_a_sink_gets_the_head_each_read_and_the_end(connections: Connections) -> None:
    more = asyncio.Event()

    async def streams(served: Server, reader: Reader, writer: Writer) -> None:
        await served.asked(reader)
        writer.write(
            b"HTTP/1.1 404 Not Found\r\nX-Some: Yes\r\nContent-Type: Text/Plain; x=y\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n"
        )
        await more.wait()
        writer.write(b"2\r\nde\r\n0\r\n\r\n")

    sink = Kept()
    async with serving(streams) as served:
        exchange = await connections.ask(served.instance, GET, sink)
        await sink.until(lambda sink: sink.pieces, "the first read")
        assert sink.pieces == [b"abc"]
        more.set()
        await exchange.ended()

    (head,) = sink.heads
    assert (head.status, head.headers[b"x-some"], head.content_type) == (404, b"Yes", "text/plain")
    assert (sink.pieces, sink.ends) == ([b"abc", b"de"], [None])


async def test_a_sink_that_pauses_holds_the_engine_back(connections: Connections) -> None:
    total, piece = 500, b"x" * 65536
    sent = 0

    async def eager(served: Server, reader: Reader, writer: Writer) -> None:
        nonlocal sent
        await served.asked(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (total * len(piece)))
        for _ in range(total):
            writer.write(piece)
            await writer.drain()
            sent += 1

    sink = Kept(on_head=lambda sink: sink.source.pause())
    async with serving(eager) as served:
        exchange = await connections.ask(served.instance, GET, sink)
        before = -1
        while sent > before:  # until the kernel's buffers are full
            before = sent
            await asyncio.sleep(0.5)
        assert sent < total
        assert len(sink.body) <= 256 * 1024  # the most that one read of asyncio brings
        sink.source.resume()
        await exchange.ended()

    assert len(sink.body) == total * len(piece)


@pytest.mark.parametrize("when", ["on_head", "on_data"])
async def test_a_sink_may_end_the_request(connections: Connections, when: str) -> None:
    async with serving(sends(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc")) as served:
        sink = Kept(**{when: lambda sink: sink.source.close()})
        exchange = await connections.ask(served.instance, GET, sink)
        await exchange.ended()

    assert (len(sink.heads), len(sink.pieces), sink.ends) == (1, when == "on_data", [])
    for late in (exchange.close, exchange.pause, exchange.resume):
        late()


async def test_the_source_of_an_answer_that_has_ended_holds_no_other_back(
    connections: Connections,
) -> None:
    async def twice(served: Server, reader: Reader, writer: Writer) -> None:
        for _ in range(2):
            await served.asked(reader)
            writer.write(OK)

    old, new = Kept(on_data=lambda sink: sink.source.pause()), Kept()
    async with serving(twice) as served:
        await (await connections.ask(served.instance, GET, old)).ended()
        second = await connections.ask(served.instance, GET, new)
        old.source.pause()
        old.source.close()
        await second.ended()

    assert (old.body, new.body) == (b"ok", b"ok")


async def test_an_engine_that_breaks_off_is_the_end_with_an_error(
    connections: Connections,
) -> None:
    async def breaks_off(served: Server, reader: Reader, writer: Writer) -> None:
        await served.asked(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc")

    sink = Kept()
    async with serving(breaks_off) as served:
        exchange = await connections.ask(served.instance, GET, sink)
        with pytest.raises(ConnectionAbortedError, match="the engine closed the connection"):
            await exchange.ended()

    assert sink.body == b"abc"
    assert isinstance(sink.ends[0], ConnectionAbortedError)


async def test_cancelling_the_wait_for_the_end_closes_the_connection(
    connections: Connections,
) -> None:
    sink = Kept()
    async with serving(sends(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc")) as served:
        exchange = await connections.ask(served.instance, GET, sink)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await exchange.ended()

    assert sink.ends == []


async def test_a_fault_of_the_sink_ends_its_request(connections: Connections) -> None:
    def faulty(sink: Kept) -> None:
        raise RuntimeError("a fault of the sink")

    logged: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, facts: logged.append(facts))
    sink = Kept(on_data=faulty)
    async with serving(sends(OK)) as served:
        exchange = await connections.ask(served.instance, GET, sink)
        with pytest.raises(RuntimeError, match="a fault of the sink"):
            await exchange.ended()

    assert len(logged) == len(sink.ends) == 1


async def test_a_kept_connection_that_breaks_within_a_head_is_an_error(
    connections: Connections,
) -> None:
    async def breaks(served: Server, reader: Reader, writer: Writer) -> None:
        await served.asked(reader)
        writer.write(OK)
        await served.asked(reader)
        writer.write(b"HTTP/1.1 2")

    async with serving(breaks) as served:
        assert await body(await ask(connections, served)) == b"ok"
        with pytest.raises(ConnectionAbortedError):
            await ask(connections, served)


INTERIM = {
    "100": b"HTTP/1.1 100 Continue\r\n\r\n",
    "103": b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\ncontent-length: 3\r\n\r\n",
    "two": b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n",
}


@pytest.mark.parametrize("together", [True, False], ids=["in one read", "in two"])
@pytest.mark.parametrize("interim", INTERIM.values(), ids=INTERIM)
async def test_an_interim_answer_is_not_the_answer(
    connections: Connections, interim: bytes, together: bool
) -> None:
    async def hints(served: Server, reader: Reader, writer: Writer) -> None:
        for _ in range(2):
            await served.asked(reader)
            writer.write(interim)
            if not together:
                await asyncio.sleep(0.02)
            writer.write(OK)

    async with serving(hints) as served:
        for _ in range(2):
            answer = await ask(connections, served)
            assert (answer.status, dict(answer.headers)) == (200, {b"content-length": b"2"})
            assert await body(answer) == b"ok"


async def test_a_switch_of_the_protocol_is_an_error(connections: Connections) -> None:
    switch = b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nbytes"
    async with serving(sends(switch)) as served:
        with pytest.raises(ConnectionAbortedError, match="is no HTTP: a switch"):
            await ask(connections, served)


async def test_trailers_are_no_headers_and_the_connection_is_used_again(
    connections: Connections,
) -> None:
    async def twice(served: Server, reader: Reader, writer: Writer) -> None:
        for _ in range(2):
            await served.asked(reader)
            writer.write(
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
                b"2;name=value\r\nok\r\n0\r\nX-Late: yes\r\n\r\n"
            )

    async with serving(twice) as served:
        for _ in range(2):
            answer = await ask(connections, served)
            assert await body(answer) == b"ok"
            assert b"x-late" not in answer.headers


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
ENDLESS = {
    "a long header": b"HTTP/1.1 200 OK\r\nx: " + b"y" * LARGEST_HEAD + b"\r\n\r\n",
    "a header without an end": b"HTTP/1.1 200 OK\r\nx: " + b"y" * LARGEST_HEAD,
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * (LARGEST_HEAD // 6) + b"\r\n",
    "a long reason": b"HTTP/1.1 200 " + b"y" * LARGEST_HEAD,
    "interim answers": INTERIM["103"] * (LARGEST_HEAD // 40),
    "a trailer without an end": CHUNKED + b"0\r\nx: " + b"y" * LARGEST_HEAD,
    "a chunk's extension": CHUNKED + b"2;" + b"y" * LARGEST_HEAD,
}


@pytest.mark.parametrize("data", ENDLESS.values(), ids=ENDLESS)
async def test_a_head_of_more_than_64_kib_is_an_error(
    connections: Connections, data: bytes
) -> None:
    async def floods(served: Server, reader: Reader, writer: Writer) -> None:
        await served.asked(reader)
        writer.write(data)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""

    async with serving(floods) as served:
        with pytest.raises(ConnectionAbortedError, match=r"64 KiB|is no HTTP"):
            await body(await ask(connections, served))


async def test_a_large_head_may_have_almost_64_kib(connections: Connections) -> None:
    large = b"y" * (LARGEST_HEAD - 200)
    async with serving(sends(OK.replace(b"\r\n", b"\r\nx: " + large + b"\r\n", 1))) as served:
        answer = await ask(connections, served)
        assert answer.headers[b"x"] == large
        assert await body(answer) == b"ok"
        await connections.aclose()


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_that_has_no_body_ends_with_its_head(
    connections: Connections, status: int
) -> None:
    async def twice(served: Server, reader: Reader, writer: Writer) -> None:
        for _ in range(2):
            await served.asked(reader)
            writer.write(b"HTTP/1.1 %d Some\r\netag: x\r\n\r\n" % status)

    async with serving(twice) as served:
        for _ in range(2):
            answer = await ask(connections, served)
            assert answer.status == status
            assert await soon(body(answer), "the end of the answer") == b""


async def test_a_redirect_is_passed_on(connections: Connections) -> None:
    moved = b"HTTP/1.1 307 Moved\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n"
    async with serving(sends(moved)) as served:
        answer = await ask(connections, served)
        assert (answer.status, answer.headers[b"location"]) == (307, b"http://127.0.0.1:1/")
        assert await body(answer) == b""
        await connections.aclose()


async def test_an_answer_before_the_request_is_read_is_given_and_the_connection_closed(
    connections: Connections,
) -> None:
    async def refuses(served: Server, reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")
        await asked_again.wait()

    asked_again = asyncio.Event()
    large = Request("POST", "/", b"x" * (16 << 20))
    async with serving(refuses, once) as served:
        answer = await ask(connections, served, large)
        assert (answer.status, await body(answer)) == (413, b"no")
        assert await body(await ask(connections, served)) == b"ok"
        asked_again.set()
