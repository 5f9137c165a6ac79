"""Calls of the SDK: their threads, and the patience with a daemon that is slow, or hangs."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest

from inference_service.errors import RuntimeUnavailable
from inference_service.runtimes.docker.calls import Calls
from inference_service.runtimes.docker.pulse import Patience, Pulse
from tests.waiting import PROMPTLY, within


def dead(seconds: float) -> None:
    raise OSError("no answer")


def alive(seconds: float) -> None:
    pass


@asynccontextmanager
async def made(ping: Callable[[float], None], whole: float = 60.0) -> AsyncGenerator[Calls]:
    """Make calls of a daemon with this pulse, which is felt soon."""
    pulse = Pulse(ping)
    pulse.patience = Patience(pause=0.02, answer=0.02, whole=whole)
    calls = Calls(pulse)
    async with within(PROMPTLY, "the calls did not end"):
        yield calls
    await calls.close()


@pytest.fixture
def block() -> threading.Event:
    """An event for which a call waits in its thread."""
    return threading.Event()


async def test_a_slow_call_to_a_daemon_that_lives_is_awaited(block: threading.Event) -> None:
    async with made(alive) as calls:
        call = asyncio.create_task(calls.call(lambda: block.wait() and "done"))
        done, _ = await asyncio.wait([call], timeout=0.2)
        assert not done
        block.set()
        assert await call == "done"


async def test_a_call_to_a_daemon_that_hangs_is_given_up(block: threading.Event) -> None:
    async with made(dead) as calls:
        with pytest.raises(RuntimeUnavailable, match="has not answered for 0 s"):
            await calls.call(block.wait)
        block.set()


async def test_a_daemon_that_answers_pings_alone_is_given_up_later(block: threading.Event) -> None:
    async with made(alive, whole=0.1) as calls:
        with pytest.raises(RuntimeUnavailable):
            await calls.call(block.wait)
        block.set()


async def test_a_call_may_take_its_own_time_beside_that(block: threading.Event) -> None:
    async with made(alive, whole=0.0) as calls:
        call = asyncio.create_task(calls.call(block.wait, takes=600))
        done, _ = await asyncio.wait([call], timeout=0.2)
        assert not done
        block.set()
        assert await call


async def test_a_cancelled_call_is_awaited_unless_the_daemon_hangs(block: threading.Event) -> None:
    async with made(alive) as calls:
        call = asyncio.create_task(calls.call(block.wait))
        await asyncio.sleep(0)
        call.cancel()
        done, _ = await asyncio.wait([call], timeout=0.1)
        assert not done
        block.set()
        with pytest.raises(asyncio.CancelledError):
            await call

    block.clear()
    async with made(dead) as calls:
        call = asyncio.create_task(calls.call(block.wait))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        block.set()


async def test_more_calls_than_threads_are_all_given_up(block: threading.Event) -> None:
    made_at_all: list[int] = []

    def call(number: int) -> None:
        made_at_all.append(number)
        block.wait()

    async with made(dead) as calls:
        answers = await asyncio.gather(
            *(calls.call(call, number) for number in range(20)), return_exceptions=True
        )
        block.set()
        assert await calls.call(lambda: "the next") == "the next"
    assert {type(answer) for answer in answers} == {RuntimeUnavailable}
    assert len(made_at_all) == 8, "the others were given up before a thread was free"


async def test_a_stream_of_a_daemon_that_hangs_is_given_up(
    block: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference_service.runtimes.docker.calls._QUIET", 0.05)

    def items() -> Iterator[int]:
        yield 1
        block.wait()

    async with made(dead) as calls:
        stream = calls.stream(items)
        assert await anext(stream) == 1
        with pytest.raises(RuntimeUnavailable, match="has said nothing"):
            await anext(stream)
        block.set()


def test_a_call_that_hangs_holds_up_no_end_of_the_process() -> None:
    program = (
        "import threading\n"
        "from inference_service.runtimes.docker.threads import Threads\n"
        "begun = threading.Event()\n"
        "Threads(1, 'x').submit(lambda: (begun.set(), threading.Event().wait()))\n"
        "begun.wait()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=20)
