"""One start, step by step, and its end when nothing moves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from itertools import islice

import pytest

from inference_service.errors import LaunchError, StartFailed, StartStalled
from inference_service.key import Key
from inference_service.lifecycle import Phase, Progress, State
from inference_service.runtimes.base import Exit
from inference_service.runtimes.command import Command
from inference_service.serving.entry import Entry
from inference_service.serving.report import Report
from inference_service.serving.start import Start, pauses
from inference_service.serving.start_times import StartTimes
from tests.build import machine, timing
from tests.build import model as make_model
from tests.fakes import FakeEngine, FakeRunning, FakeRuntime, spec
from tests.waiting import PROMPTLY, within


class Bed:
    """A start over fakes, in STARTING."""

    def __init__(self, runtime: FakeRuntime | None = None, stall: float = 600) -> None:
        self.runtime, self.engine = runtime or FakeRuntime(), FakeEngine()
        entry = Entry.of(spec(), self.runtime, self.engine)
        self.report = Report(Key("tiny"), StartTimes(), lambda: None)
        self.report.starting(entry)
        self.start = Start(entry, self.report, timing(stall=stall))
        self.instance = FakeRunning("tgi-tiny", 8080)

    async def healthy(self) -> None:
        await self.start.healthy(self.instance, self.lives())

    async def lives(self) -> None:
        await self.instance.wait()
        raise StartFailed("tiny", Phase.LOADING_WEIGHTS, "dead")


async def test_a_start_is_created_after_its_pull() -> None:
    bed = Bed()

    await bed.start.pulled()

    assert bed.report.phase is Phase.CREATING_CONTAINER


async def test_a_pull_in_which_nothing_moves_is_given_up() -> None:
    bed = Bed(stall=0.01)
    bed.runtime.may_pull.clear()

    async with within(PROMPTLY, "a pull that stands still was not given up"):
        with pytest.raises(StartStalled, match=r"given up \(pulling image\)") as stalled:
            await bed.start.pulled()
    assert stalled.value.log == ()


async def test_progress_that_repeats_itself_does_not_put_the_stall_off() -> None:
    class Repeating(FakeRuntime):
        async def pull(self, command: Command) -> AsyncGenerator[Progress]:
            while True:
                yield Progress(Phase.PULLING_IMAGE, 1, 2, "bytes", 0.5)
                await asyncio.sleep(0.001)

    bed = Bed(Repeating(), stall=0.05)

    async with within(PROMPTLY, "a pull that repeats itself was not given up"):
        with pytest.raises(StartStalled):
            await bed.start.pulled()


async def test_the_wait_for_memory_is_not_given_up() -> None:
    runtime, engine, admission = FakeRuntime(), FakeEngine(), machine(100 * 2**20)
    first, second = (
        make_model(spec(name), runtime, engine, timing(stall=0.01), admission)
        for name in ("first", "second")
    )
    async with first.lease():
        start = asyncio.create_task(second.start())
        await asyncio.sleep(0.05)
        assert second.status.state is State.STARTING
        assert second.status.progress == Progress(
            Phase.WAITING, message="waits for memory that first use", queue_position=1
        )

    async with within(PROMPTLY, "the start did not go on"):
        await start
    await second.stop()


async def test_the_end_of_a_log_is_not_the_end_of_a_start() -> None:
    bed = Bed()
    bed.engine.may_answer.clear()
    bed.instance.log.append("load 1")
    bed.instance.log.close()
    healthy = asyncio.create_task(bed.healthy())
    await asyncio.sleep(0.01)
    assert bed.report.phase is Phase.LOADING_WEIGHTS
    assert not healthy.done()

    bed.engine.may_answer.set()

    async with within(PROMPTLY, "the engine answers, and the start is not over"):
        await healthy


async def test_the_death_of_the_engine_ends_a_start() -> None:
    bed = Bed()
    bed.engine.may_answer.clear()
    bed.instance.die(Exit(1))

    async with within(PROMPTLY, "the engine is dead, and the start is not over"):
        with pytest.raises(StartFailed, match="dead"):
            await bed.healthy()


async def test_what_a_runtime_refuses_is_not_refused_in_the_wait_for_memory() -> None:
    class Refusing(FakeRuntime):
        async def pull(self, command: Command) -> AsyncGenerator[Progress]:
            raise LaunchError("no program")
            yield

    bed = Bed(Refusing())

    with pytest.raises(LaunchError):
        await bed.start.pulled()
    assert str(bed.report.told_phase) == "starting the container"
    assert bed.report.told_phase.name == "CREATING_CONTAINER"


async def test_the_phase_of_an_engine_that_ended_is_that_of_its_last_line() -> None:
    bed = Bed()
    bed.engine.may_answer.clear()

    async def fails() -> None:
        await bed.instance.wait()
        await bed.start.has_read()
        raise StartFailed("tiny", bed.report.told_phase, "dead")

    bed.instance.die(Exit(1), *["nothing"] * 500, "load 1")

    async with within(PROMPTLY, "the engine is dead, and the start is not over"):
        with pytest.raises(StartFailed, match=r"\(loading weights\): dead"):
            await bed.start.healthy(bed.instance, fails())


def test_the_pauses_grow_by_a_tenth_to_the_longest() -> None:
    found = list(islice(pauses(timing(poll=0.01, poll_longest=1.0)), 100))

    assert found[:3] == pytest.approx([0.01, 0.011, 0.0121])
    assert found[-1] == 1.0
    assert all(pause <= 1.0 for pause in found)


async def test_progress_at_the_moment_of_the_stall_is_no_fault() -> None:
    class Last(FakeRuntime):
        async def pull(self, command: Command) -> AsyncGenerator[Progress]:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:  # the stall: its limit cannot be put off any more
                yield Progress(Phase.PULLING_IMAGE, 1, 2, "bytes", 0.5)
                raise

    bed = Bed(Last(), stall=0.01)

    async with within(PROMPTLY, "a pull that stands still was not given up"):
        with pytest.raises(StartStalled):
            await bed.start.pulled()
