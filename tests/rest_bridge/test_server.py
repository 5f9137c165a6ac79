"""uvicorn without its ticks."""

import asyncio
import selectors
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from rest_bridge import server
from rest_bridge.server import Embedded
from tests.rest_bridge.loopback import open_client
from tests.waiting import within


async def empty(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with an empty body."""
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body"})


def configured() -> uvicorn.Config:
    return uvicorn.Config(empty, lifespan="off", log_config=None, server_header=False)


@asynccontextmanager
async def serving() -> AsyncIterator[str]:
    """Run a server; yield its address, and end the server afterwards."""
    running = Embedded(configured())
    listener = socket.create_server(("127.0.0.1", 0))
    task = asyncio.create_task(running.serve([listener]))
    await running.up.wait()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        running.stop()
        await task


async def test_up_is_set_when_the_server_cannot_serve() -> None:
    config = configured()
    config.http = "no.such:protocol"
    running = Embedded(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        task = asyncio.create_task(running.serve([listener]))
        async with within(10, "a server that cannot serve did not set `up`"):
            await running.up.wait()

    assert isinstance(task.exception(), ModuleNotFoundError)


class Selector(selectors.DefaultSelector):
    """A selector that reports for how many seconds its loop sleeps; None is without end."""

    def __init__(self) -> None:
        super().__init__()
        self.report: Callable[[float | None], None] = lambda _: None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout > 0:
            self.report(timeout)
        return super().select(timeout)


def test_an_idle_server_sleeps_without_end() -> None:
    selector, sleeps = Selector(), list[float | None]()

    async def serve() -> None:
        running = Embedded(configured())

        def end_at_once(timeout: float | None) -> None:
            sleeps.append(timeout)
            running.stop()

        selector.report = end_at_once
        await running.serve([socket.create_server(("127.0.0.1", 0))])

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        runner.run(serve())

    assert sleeps[0] is None


async def test_an_answer_has_the_date_of_today() -> None:
    async with serving() as url, open_client(url) as client:
        answer = await client.get("/")

    assert list(answer.headers) == ["date", "transfer-encoding"]
    age = datetime.now(UTC) - parsedate_to_datetime(answer.headers["date"])
    assert timedelta() <= age < timedelta(minutes=1)


async def test_each_answer_of_a_connection_has_its_own_date(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dates = [format_datetime(datetime(2030, 1, day, tzinfo=UTC), usegmt=True) for day in (1, 2)]
    coming = iter(dates)
    monkeypatch.setattr(server, "formatdate", lambda *, usegmt: next(coming))

    async with serving() as url, open_client(url) as client:
        assert [(await client.get("/")).headers["date"] for _ in dates] == dates


async def test_an_embedded_server_leaves_the_signals_alone() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    async with serving():
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
