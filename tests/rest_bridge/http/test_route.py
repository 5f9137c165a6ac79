"""The seam by which a route can be answered without ASGI, shown by a relay of bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from inference_service.engines.exchange import Head, Request, Source
from inference_service.engines.http import Connections
from inference_service.runtimes.base import Instance
from rest_bridge.http import Limits
from rest_bridge.http.exchange import Exchange, Handler
from tests.rest_bridge.http.app import App
from tests.rest_bridge.http.client import GET, Serving, post, serving
from tests.waiting import PROMPTLY, until, within


class Relay:
    """A handler that asks an engine, and the sink of its answer."""

    def __init__(self, exchange: Exchange, connections: Connections, url: str) -> None:
        self.exchange = exchange
        self.connections = connections
        self.instance = Instance("engine", url)
        self.body = b""
        self.source: Source | None = None
        self.asking: asyncio.Task[object] | None = None
        self.closed: list[bool] = []

    def on_body(self) -> None:
        self.body += self.exchange.take()
        if self.exchange.whole and self.asking is None:
            request = self.exchange.request
            path = request.target.decode().removeprefix("/relay")
            asked = Request(request.method, path, self.body, "application/json")
            self.asking = asyncio.ensure_future(self.connections.ask(self.instance, asked, self))

    def on_drained(self) -> None:
        if self.source is not None:
            self.source.resume()

    def on_closed(self, by_server: bool) -> None:
        self.closed.append(by_server)
        if self.source is not None:
            self.source.close()
        elif self.asking is not None:
            self.asking.cancel()
        if by_server:
            self.exchange.fail()

    def head(self, head: Head, source: Source) -> None:
        self.source = source
        self.exchange.head(head.status, head.headers.items())

    def data(self, data: bytes) -> None:
        self.exchange.write(data)
        if self.exchange.slow and self.source is not None:
            self.source.pause()

    def end(self, error: Exception | None) -> None:
        if error is None:
            self.exchange.write(b"", more=False)
        else:
            self.exchange.fail()


class Relays:
    """A face with a relay at /relay, and the application at all other paths."""

    def __init__(self, serving: Serving, engine: App, made: list[Relay]) -> None:
        self.serving = serving
        self.engine = engine
        self.made = made


@pytest.fixture
async def relays() -> AsyncIterator[Relays]:
    engine, made = App(), list[Relay]()
    connections = Connections(keep_alive=True)
    async with serving(engine) as upstream, aclosing(connections):

        def route(exchange: Exchange) -> Handler | None:
            if not exchange.request.path.startswith(b"/relay"):
                return None
            relay = Relay(exchange, connections, f"http://127.0.0.1:{upstream.port}")
            made.append(relay)
            return relay

        limits = Limits(body_seconds=0.2)
        async with serving(App(), limits, route=route) as face:
            yield Relays(face, engine, made)


def relayed(path: bytes) -> bytes:
    return b"GET /relay%b HTTP/1.1\r\nHost: x\r\n\r\n" % path


async def test_a_route_answers_and_the_application_the_others(relays: Relays) -> None:
    async with relays.serving.client() as client:
        await client.send(post(b"[1,2]", path=b"/relay/echo") + GET)
        answers = [await client.answer(), await client.answer()]

    assert [answer.json for answer in answers] == [{"got": [1, 2]}, {"hello": True}]
    assert relays.engine.calls == [("POST", "/echo")]


async def test_a_route_streams(relays: Relays) -> None:
    async with relays.serving.client() as client:
        await client.send(relayed(b"/events"))
        assert b"chunked" in (await client.until(b"\r\n\r\n") or b"")
        for _ in range(3):
            relays.engine.go.set()
            assert await client.until(b"data: 1\n\n") is not None


async def test_a_client_of_a_route_that_does_not_read_holds_the_engine(relays: Relays) -> None:
    async with relays.serving.client(receive_buffer=4096) as client:
        await client.send(relayed(b"/flood"))
        before = -1
        async with within(PROMPTLY, "the engine was not held"):
            while before != relays.engine.taken:
                before = relays.engine.taken
                await asyncio.sleep(0.1)
        assert before < 30_000_000  # what kernels and buffers of two connections hold
        for _ in range(2000):
            assert await client.more()
            client.buffer = b""
        assert relays.engine.taken > before


async def test_a_route_learns_that_its_client_has_left(relays: Relays) -> None:
    client = await relays.serving.connect()
    await client.send(relayed(b"/slow"))
    async with within(PROMPTLY, "the engine was not asked"):
        await relays.engine.began.wait()
    client.close()
    await until(lambda: relays.made[0].closed == [False], "the route was not told")

    async with within(PROMPTLY, "the engine was not told"):
        await relays.engine.left.wait()


async def test_a_route_has_the_limits_of_all(relays: Relays) -> None:
    async with relays.serving.client() as client:
        await client.send(post(b"[1", b"Content-Length: 9", path=b"/relay/echo"))

        assert (await client.answer()).status == 408
    assert (relays.made[0].closed, relays.engine.calls) == ([False], [])


async def test_a_route_whose_engine_breaks_off_does_not_look_whole(relays: Relays) -> None:
    answer = await relays.serving.ask(relayed(b"/broken"))

    assert (answer.body, answer.whole) == (b"the beginning", False)


async def test_a_route_is_ended_with_the_server(relays: Relays) -> None:
    async with relays.serving.client() as client:
        await client.send(relayed(b"/slow"))
        await relays.serving.server.close(0)

        assert (await client.answer()).status == 503
    assert relays.made[0].closed == [True]


class Prompt:
    """A handler that answers at once."""

    def __init__(self, exchange: Exchange) -> None:
        exchange.head(200, [(b"content-length", b"2")])
        exchange.write(b"ok", more=False)

    def on_body(self) -> None: ...

    def on_drained(self) -> None: ...

    def on_closed(self, by_server: bool) -> None: ...


async def test_answers_that_are_there_at_once() -> None:
    """Each is given within the call that reads its request, so a pipeline must not nest them."""
    async with serving(App(), route=Prompt) as served, served.client() as client:
        for request in (GET, post(b"[1,2]")):
            await client.say(request * 1000)
            for _ in range(1000):
                assert (await client.answer()).body == b"ok"
        await client.send(b"GET /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await client.answer())["connection"] == "close"
        client.half_close()
        assert await client.end() == b""


@pytest.mark.parametrize("ending", [False, True])
async def test_nothing_is_answered_behind_the_last_answer(ending: bool) -> None:
    answered = list[Exchange]()

    def route(exchange: Exchange) -> Handler:
        answered.append(exchange)
        return Prompt(exchange)

    async with serving(App(), route=route) as served, served.client() as client:
        await client.send(GET)
        await client.answer()
        if ending:
            served.server._shared.ending = True
            await client.say(GET * 3)
        else:
            await client.say(GET[:-2] + b"Connection: close\r\n\r\n" + GET * 2)
        answer = await client.answer()
        client.half_close()

        assert (answer.body, answer["connection"]) == (b"ok", "close")
        assert (await client.end(), len(answered)) == (b"", 2)


async def test_half_a_head_behind_many_answers_has_its_time() -> None:
    """The others have the loop after a hundred requests, and the time begins then."""
    async with (
        serving(App(), Limits(head_seconds=0.2), route=Prompt) as served,
        served.client() as client,
    ):
        await client.say(GET * 900 + GET[:20])
        for _ in range(900):
            assert (await client.answer()).body == b"ok"

        assert (await client.answer()).status == 408


class Late:
    """A handler that ends its answer as the client has read the rest of it."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        exchange.head(200, [(b"connection", b"close")])
        while not exchange.slow:
            exchange.write(bytes(1 << 14))

    def on_body(self) -> None: ...

    def on_drained(self) -> None:
        self.exchange.write(b"", more=False)

    def on_closed(self, by_server: bool) -> None: ...


async def test_an_answer_that_ends_as_its_client_has_read(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    """A transport of asyncio that is closed within `resume_writing` reports its end twice."""
    async with serving(app, route=Late) as served:
        for _ in range(20):
            async with served.client() as client:
                await client.send(GET)
                answer = await client.answer()
                assert (answer.status, answer.whole) == (200, True)
                await client.end()
        await until(lambda: not served.server.connections, "a connection is left")
    assert not caplog.records
