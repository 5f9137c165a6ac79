"""How the server begins, ends, and sleeps."""

from __future__ import annotations

import asyncio
import selectors
import socket
from collections.abc import Callable
from typing import Any

import pytest

from rest_bridge.http import Server
from tests.rest_bridge.http.app import App
from tests.rest_bridge.http.client import GET, Client, Serving, post, serving
from tests.waiting import PROMPTLY, within

SLOW = b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"


async def test_the_end_waits_for_answers_and_for_nothing_else(served: Serving, app: App) -> None:
    slow, fresh, idle, half = [await served.connect() for _ in range(4)]
    await slow.send(SLOW)
    await idle.send(GET)
    await idle.answer()
    await half.send(GET[:20])
    ending = asyncio.create_task(served.server.close(3600))

    for client in (fresh, idle, half):
        assert await client.end() == b""
        client.close()
    assert not ending.done()
    app.go.set()
    answer = await slow.answer()
    assert (answer.json, answer["connection"]) == ({"slow": True}, "close")
    async with within(PROMPTLY, "the server did not end"):
        await ending
    slow.close()


@pytest.mark.parametrize(
    "request_",
    [SLOW, b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n", post(b"[1", b"Content-Length: 9")],
    ids=["an answer", "a stream", "half a body"],
)
async def test_the_end_cuts_what_does_not_end(app: App, request_: bytes) -> None:
    async with serving(app) as served:
        client = await served.connect()
        await client.send(request_)
        async with within(PROMPTLY, "the server did not end"):
            await served.server.close(0.05)
            await client.end()
        client.close()


async def test_a_request_that_is_cut_at_the_end_is_a_503(served: Serving) -> None:
    async with served.client() as client:
        await client.send(SLOW)
        await served.server.close(0.05)

        answer = await client.answer()
    assert (answer.status, "shutting down" in answer.detail) == (503, True)


async def test_a_hurry_ends_the_wait(served: Serving) -> None:
    async with served.client() as client:
        await client.send(SLOW)
        ending = asyncio.create_task(served.server.close(3600))
        await asyncio.sleep(0)
        served.server.hurry()
        async with within(PROMPTLY, "the server did not hurry"):
            await ending


async def test_an_application_that_ignores_its_cancelling_does_not_hold_the_end() -> None:
    go = asyncio.Event()

    async def stubborn(*_: object) -> None:
        while not go.is_set():
            try:
                await go.wait()
            except asyncio.CancelledError:
                continue

    async with serving(stubborn) as served, served.client() as client:
        await client.send(GET)
        async with within(PROMPTLY, "the server did not end"):
            await served.server.close(0)
            await client.end()
        go.set()


async def test_who_has_asked_when_the_server_ends_is_answered(app: App) -> None:
    """Neither the connection nor the request has been looked at when the end begins."""
    async with serving(app) as served, served.client() as client:
        client.sock.send(GET)
        await served.server.close(5)

        answer = await client.answer()
    assert (answer.status, answer["connection"]) == (200, "close")


async def test_who_has_connected_when_the_server_ends_does_not_hold_it(app: App) -> None:
    async with serving(app) as served, served.client() as client:
        async with within(PROMPTLY, "the server did not end"):
            await served.server.close(3600)

        assert await client.end() == b""


class Selector(selectors.DefaultSelector):
    """A selector that reports for how many seconds its loop sleeps; None is without end."""

    report: Callable[[float | None], None] = staticmethod(lambda _: None)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout > 0:
            self.report(timeout)
        return super().select(timeout)


def test_an_idle_server_sleeps_without_end() -> None:
    selector, sleeps = Selector(), list[float | None]()

    async def serve() -> None:
        server, stop, loop = Server(App()), asyncio.Event(), asyncio.get_running_loop()
        server.start([socket.create_server(("127.0.0.1", 0))])

        def end_at_once(timeout: float | None) -> None:
            sleeps.append(timeout)
            loop.call_soon_threadsafe(stop.set)

        selector.report = end_at_once
        await stop.wait()
        await server.close(0)

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        runner.run(serve())

    assert sleeps[0] is None


async def test_a_thousand_requests_set_no_timer(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.send(GET)
    await client.answer()
    loop, made = asyncio.get_running_loop(), list[float]()
    call_at = loop.call_at

    def counted(when: float, *rest: Any, **more: Any) -> asyncio.TimerHandle:
        made.append(when)
        return call_at(when, *rest, **more)

    monkeypatch.setattr(loop, "call_at", counted)
    for _ in range(1000):
        client.sock.send(GET)
        while b"hello" not in client.buffer:
            client.buffer += await loop.sock_recv(client.sock, 65536)
        client.buffer = b""

    assert len(made) < 5
