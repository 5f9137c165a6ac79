"""Clients that leave, and those that only have said all."""

from __future__ import annotations

import asyncio
import gc

import pytest
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from tests.rest_bridge.http.app import App
from tests.rest_bridge.http.client import GET, Client, Serving, post, serving, settle
from tests.waiting import PROMPTLY, until, within

SLOW = b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"
EVENTS = b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n"


async def begun(served: Serving, app: App, request: bytes) -> Client:
    """Return a client whose request is being answered; it has read what there is."""
    client = await served.connect()
    await client.send(request)
    async with within(PROMPTLY, "the application was not called"):
        await app.began.wait()
    if request.startswith(EVENTS):
        assert await client.until(b"\r\n\r\n")
    return client


@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
@pytest.mark.parametrize(
    "request_", [SLOW, EVENTS, SLOW + GET], ids=["before the head", "in a stream", "more waits"]
)
async def test_the_application_learns_that_its_client_has_left(
    served: Serving, app: App, request_: bytes, reset: bool
) -> None:
    client = await begun(served, app, request_)
    client.close(reset)

    async with within(PROMPTLY, "the application was not told"):
        await app.left.wait()
    await until(lambda: not served.server.connections, "the connection is not closed")


async def test_a_client_that_leaves_within_its_body(served: Serving, app: App) -> None:
    client = await served.connect()
    await client.send(post(b"[1,", b"Content-Length: 9"))
    client.close()

    async with within(PROMPTLY, "the application was not told"):
        await app.left.wait()


async def test_starlette_sees_that_the_client_has_left() -> None:
    """Its `is_disconnected` gives `receive` no time to wait (vllm-mlx#457)."""
    seen = list[bool]()
    left, go = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        await request.body()
        seen.append(await request.is_disconnected())
        go.set()
        await left.wait()
        seen.append(await request.is_disconnected())
        left.clear()

    async with serving(app) as served:
        client = await served.connect()
        await client.send(GET)
        await go.wait()
        client.close(reset=True)
        await until(lambda: not served.server.connections, "the connection is not closed")
        left.set()
        await until(lambda: not left.is_set(), "the application did not end")

    assert seen == [False, True]


async def test_a_client_that_has_said_all_gets_its_answer(served: Serving, app: App) -> None:
    client = await begun(served, app, SLOW + post(b"[1]"))
    client.half_close()
    for _ in range(3):  # longer than signs of life are asked for at first
        await asyncio.sleep(0.02)
    app.go.set()

    assert (await client.answer()).json == {"slow": True}
    assert (await client.answer()).json == {"got": [1]}
    assert await client.end() == b""
    assert not app.left.is_set()
    client.close()


async def test_a_client_that_has_said_all_gets_its_events(served: Serving, app: App) -> None:
    client = await begun(served, app, EVENTS)
    client.half_close()
    for _ in range(2):
        app.go.set()
        assert await client.until(b"data: 1\n\n") is not None
    client.close()

    async with within(PROMPTLY, "the application was not told"):
        await app.left.wait()


async def test_a_client_that_said_all_before_its_request_was_read(served: Serving) -> None:
    client = await served.connect()
    client.sock.send(post(b"[1]"))
    client.half_close()

    assert (await client.answer()).json == {"got": [1]}
    client.close()


@pytest.mark.parametrize("half", [b"GET /he", post(b"[1", b"Content-Length: 9")])
async def test_half_a_request_is_not_answered_when_no_more_can_come(
    served: Serving, half: bytes
) -> None:
    client = await served.connect()
    await client.send(half)
    client.half_close()

    assert await client.end() == b""
    client.close()


async def test_an_answer_to_a_client_that_left_while_nothing_was_read(
    served: Serving, app: App, caplog: pytest.LogCaptureFixture
) -> None:
    """Its end waits behind the body, which the application does not read."""
    client = await begun(
        served, app, post(b"a" * 200_000, b"Content-Length: 999999", path=b"/unread")
    )
    client.close()
    await served.server.close(0)
    gc.collect()  # a task that failed reports this at its end

    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_write_to_a_client_that_has_left_is_no_fault(
    served: Serving, app: App, caplog: pytest.LogCaptureFixture
) -> None:
    client = await begun(served, app, b"POST /unread HTTP/1.1\r\nHost: x\r\n\r\n")
    client.close(reset=True)
    await until(lambda: not served.server.connections, "the connection is not closed")
    app.go.set()
    await settle()

    assert caplog.text == ""
