"""The changes of a status, for callers who wait."""

from __future__ import annotations

import asyncio

from inference_service.key import Key
from inference_service.lifecycle import State, Status
from inference_service.serving.changes import Changes
from inference_service.serving.entry import Entry
from inference_service.serving.report import Report
from inference_service.serving.start_times import StartTimes
from tests.fakes import FakeEngine, FakeRunning, FakeRuntime, spec
from tests.waiting import PROMPTLY, within


class Bed:
    """A report, and its changes."""

    def __init__(self) -> None:
        self.entry = Entry.of(spec(), FakeRuntime(), FakeEngine())
        self.changes = Changes(lambda: self.report.now())
        self.report = Report(Key("tiny"), StartTimes(), self.changes.note)

    def ready(self) -> None:
        self.report.ready(FakeRunning("tgi-tiny", 8080).instance, learns=False)


async def test_a_caller_who_waits_sees_each_change_and_none_twice() -> None:
    bed = Bed()
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    seen: list[State] = []

    async def notify(status: Status, position: int) -> None:
        assert position == 0
        seen.append(status.state)
        match status.state:
            case State.STOPPED:
                bed.report.starting(bed.entry)  # while the caller is notified
                await asyncio.sleep(0)
            case State.STARTING:
                asyncio.get_running_loop().call_soon(bed.ready)
            case State.READY:
                future.set_result(None)

    async with within(PROMPTLY, "a change was not reported"):
        future.add_done_callback(lambda _: bed.changes.note())
        await bed.changes.until(future, notify, 3600)

    assert seen == [State.STOPPED, State.STARTING, State.READY]


async def test_whoever_waits_for_a_change_is_woken() -> None:
    bed = Bed()
    change = asyncio.create_task(bed.changes.next())
    await asyncio.sleep(0)

    bed.changes.note()

    async with within(PROMPTLY, "nobody was notified"):
        await change
