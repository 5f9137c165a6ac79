"""Connections to engines, with servers that follow scripts of the tests."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing

import pytest

from inference_service.engines.http import AHEAD, Answer, Connections
from tests.engines.waiting import soon, until

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter
Script = Callable[["Server", Reader, Writer], Awaitable[None]]


class Server:
    """A server that follows the next script on each new connection."""

    def __init__(self, scripts: tuple[Script, ...]) -> None:
        self._scripts = list(scripts)
        self.url = ""
        self.heads: list[bytes] = []
        self.tasks: list[asyncio.Task[None]] = []

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
async def serving(*scripts: Script, host: str = "127.0.0.1") -> AsyncGenerator[Server]:
    """Run a server, each of whose scripts must come to its end."""
    served = Server(scripts)
    listener = await asyncio.start_server(served.connected, host, 0)
    shown = f"[{host}]" if ":" in host else host
    served.url = f"http://{shown}:{listener.sockets[0].getsockname()[1]}"
    async with listener:
        yield served
        await soon(asyncio.gather(*served.tasks), "the end of each script; some wait for a close")
    assert not served._scripts


@pytest.fixture
async def connections() -> AsyncIterator[Connections]:
    connections = Connections(keep_alive=True)
    yield connections
    await connections.aclose()


@pytest.fixture
async def patient() -> AsyncIterator[Connections]:
    """Connections that gather bytes as long as more can come."""
    connections = Connections(keep_alive=True, gather=3600)
    yield connections
    await connections.aclose()


async def once(served: Server, reader: Reader, writer: Writer) -> None:
    await served.asked(reader)
    writer.write(OK)


async def answers_and_waits(served: Server, reader: Reader, writer: Writer) -> None:
    await once(served, reader, writer)
    assert await reader.read() == b""  # the client closes


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


async def body(answer: Answer) -> bytes:
    with closing(answer):
        return b"".join([data async for data in answer])


async def test_a_connection_is_used_again(connections: Connections) -> None:
    async def twice(served: Server, reader: Reader, writer: Writer) -> None:
        for _ in range(2):
            assert await served.asked(reader) == b'{"a":1}'
            writer.write(OK)

    async with serving(twice) as served:
        for path in ("/one", "/two?x=1"):
            answer = await connections.ask("POST", served.url + path, b'{"a":1}')
            assert await body(answer) == b"ok"

    host = served.url.removeprefix("http://").encode()
    assert served.heads == [
        b"POST %b HTTP/1.1\r\nhost: %b\r\ncontent-type: application/json\r\n"
        b"content-length: 7\r\n\r\n" % (path, host)
        for path in (b"/one", b"/two?x=1")
    ]


async def test_without_keep_alive_each_request_has_its_own() -> None:
    connections = Connections(keep_alive=False)
    async with serving(answers_and_waits, answers_and_waits) as served:
        for _ in range(2):
            assert await body(await connections.ask("GET", served.url)) == b"ok"

    assert all(b"\r\nconnection: close\r\n" in head for head in served.heads)
    assert served.heads[0].startswith(b"GET / HTTP/1.1\r\n")


async def test_two_requests_at_once_have_two_connections(connections: Connections) -> None:
    both = asyncio.Barrier(2)

    async def once(served: Server, reader: Reader, writer: Writer) -> None:
        await served.asked(reader)
        await both.wait()
        writer.write(OK)

    async with serving(once, once) as served:
        answers = await asyncio.gather(*(connections.ask("GET", served.url) for _ in range(2)))
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
        assert await body(await connections.ask("GET", served.url)) == b"ok"
        gone.set()
        await served.tasks[0]
        await asyncio.sleep(0.05)  # the client may or may not know of it by now: both must work
        assert await body(await connections.ask("GET", served.url)) == b"ok"


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
        assert await body(await connections.ask("POST", served.url, b"first")) == b"ok"
        assert await body(await connections.ask("POST", served.url, b"again")) == b"ok"


async def test_a_new_connection_that_is_closed_unread_is_an_error(
    connections: Connections,
) -> None:
    async def closes(served: Server, reader: Reader, writer: Writer) -> None:
        await served.asked(reader)

    async with serving(closes) as served:
        with pytest.raises(ConnectionResetError, match="the engine closed the connection"):
            await connections.ask("GET", served.url)


async def test_a_refused_connection_is_an_error(connections: Connections) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"

    with pytest.raises(ConnectionRefusedError):
        await connections.ask("GET", url)


async def test_an_engine_that_does_not_accept_is_an_error() -> None:
    connections = Connections(keep_alive=True, connect_timeout=0.1)
    with socket.socket() as listener, socket.socket() as fills:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fills.connect(listener.getsockname())
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"

        with pytest.raises(TimeoutError, match=r"127\.0\.0\.1:\d+ does not accept a connection"):
            await connections.ask("GET", url)


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
        answer = await connections.ask("GET", served.url)
        assert (answer.status, answer.content_type) == (503, "text/event-stream")
        assert await body(answer) == b"abcde"


async def test_later_bytes_are_gathered_until_the_end(
    patient: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed: asyncio.Queue[bytes] = asyncio.Queue()
    feed = Answer.feed

    def noted(answer: Answer, data: bytes) -> None:
        feed(answer, data)
        fed.put_nowait(data)

    monkeypatch.setattr(Answer, "feed", noted)
    steps = [asyncio.Event() for _ in range(3)]

    async def slow(served: Server, reader: Reader, writer: Writer) -> None:
        await served.asked(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc")
        for step, piece in zip(steps, [b"de", b"fg", b"hi"], strict=True):
            await step.wait()
            writer.write(piece)

    async with serving(slow) as served:
        with closing(await patient.ask("GET", served.url)) as answer:
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
        with closing(await connections.ask("GET", served.url)) as answer:
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
        answer = await patient.ask("GET", served.url)
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
        with closing(await connections.ask("GET", served.url)) as answer:
            begun.set()
            assert await anext(answer) == b"abc"
            with pytest.raises(ConnectionAbortedError, match="is no HTTP"):
                await anext(answer)


async def test_a_body_without_a_length_ends_with_the_connection(connections: Connections) -> None:
    async def unframed(served: Server, reader: Reader, writer: Writer) -> None:
        await served.asked(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nabc")

    async with serving(unframed) as served:
        assert await body(await connections.ask("GET", served.url)) == b"abc"


@pytest.mark.parametrize("data", [b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n"])
async def test_an_answer_that_is_no_http_is_an_error(connections: Connections, data: bytes) -> None:
    async def other(served: Server, reader: Reader, writer: Writer) -> None:
        await served.asked(reader)
        writer.write(data)
        await reader.read()

    async with serving(other) as served:
        with pytest.raises(ConnectionAbortedError, match="is no HTTP"):
            await connections.ask("GET", served.url)


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
        assert await body(await connections.ask("GET", served.url)) == b"ok"
        more.set()
        # An unused connection is closed after 15 seconds.
        await soon(served.tasks[0], "the client closes the connection", 5)
        assert await body(await connections.ask("GET", served.url)) == b"ok"


async def test_a_connection_that_the_engine_will_close_is_not_kept(
    connections: Connections,
) -> None:
    async def once(served: Server, reader: Reader, writer: Writer) -> None:
        await served.asked(reader)
        writer.write(OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
        assert await reader.read() == b""

    async with serving(once, once) as served:
        for _ in range(2):
            assert await body(await connections.ask("GET", served.url)) == b"ok"


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
        with closing(await connections.ask("GET", served.url)) as answer:
            await until(ended, "the client has the whole answer")
        assert await body(await connections.ask("GET", served.url)) == large


async def test_closing_an_answer_that_goes_on_closes_the_connection(
    connections: Connections,
) -> None:
    async def goes_on(served: Server, reader: Reader, writer: Writer) -> None:
        await served.asked(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
        assert await reader.read() == b""

    async with serving(goes_on) as served:
        with closing(await connections.ask("GET", served.url)) as answer:
            assert await anext(answer) == b"abc"


async def test_cancelling_the_request_closes_the_connection(connections: Connections) -> None:
    asked = asyncio.Event()

    async def silent(served: Server, reader: Reader, writer: Writer) -> None:
        await served.asked(reader)
        asked.set()
        assert await reader.read() == b""

    async with serving(silent) as served:
        asking = asyncio.create_task(connections.ask("GET", served.url))
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
        with closing(await patient.ask("GET", served.url)) as answer:
            await soon(full.wait(), "the server is held up", 60)
            held = sum(map(len, answer._body))
            assert sent < total  # the rest is in buffers of the kernel and of this server
            assert held <= AHEAD + 256 * 1024  # the most that one read of asyncio brings
            assert sum([len(data) async for data in answer]) == total * len(piece)


async def test_a_connection_is_not_kept_for_ever() -> None:
    connections = Connections(keep_alive=True, kept_for=0.05)

    async with serving(answers_and_waits, answers_and_waits) as served:
        answers = [await connections.ask("GET", served.url) for _ in range(2)]
        assert [await body(answer) for answer in answers] == [b"ok", b"ok"]


async def test_closing_closes_kept_connections_and_keeps_no_more(
    connections: Connections,
) -> None:
    async with serving(answers_and_waits, answers_and_waits) as served:
        first, second = [await connections.ask("GET", served.url) for _ in range(2)]
        assert await body(first) == b"ok"
        await connections.aclose()
        await served.tasks[0]
        assert await body(second) == b"ok"


@pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")
async def test_an_address_may_be_one_of_ipv6(connections: Connections) -> None:
    async with serving(once, host="::1") as served:
        assert await body(await connections.ask("GET", served.url)) == b"ok"
