"""One run: what its callers are answered, what it teaches, and what is left of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager

import pytest

from inference_service.capacity.admission import Admission
from inference_service.errors import (
    EngineDied,
    LaunchError,
    ModelStopped,
    StartFailed,
    StopFailed,
)
from inference_service.lifecycle import State
from inference_service.runtimes.base import Exit
from inference_service.serving.model import Model
from inference_service.serving.start_times import StartTimes
from inference_service.serving.timing import Timing
from tests.build import model as make_model
from tests.build import timing
from tests.fakes import FakeEngine, FakeRuntime, spec
from tests.waiting import PROMPTLY, within


class Bed:
    """A model whose runs are looked at."""

    def __init__(self, times: Timing) -> None:
        self.runtime, self.engine = FakeRuntime(), FakeEngine()
        self.start_times = StartTimes()
        self.admission = Admission(100 * 2**20)
        self.model = self.another("tiny", times)

    def another(self, model_id: str, times: Timing) -> Model:
        """A model in the same memory, which has room for one."""
        entry = spec(model_id)
        return make_model(entry, self.runtime, self.engine, times, self.admission, self.start_times)

    async def until(self, state: State) -> None:
        async with within(PROMPTLY, f"the model is not {state}"):
            while self.model.status.state is not state:
                await self.model.report.change()

    async def log(self) -> list[str]:
        async with aclosing(self.model.logs(10, follow=False)) as lines:
            return [line async for line in lines]


@asynccontextmanager
async def made(**times: float) -> AsyncGenerator[Bed]:
    bed = Bed(timing(**times))
    yield bed
    for gate in (bed.runtime.may_run, bed.runtime.may_leave):
        gate.set()
    await bed.model.close(0)


@pytest.mark.parametrize("adopts", [True, False])
async def test_the_start_of_an_engine_that_runs_already_teaches_nothing(adopts: bool) -> None:
    async with made() as bed:
        bed.model.begin(adopts)
        await bed.until(State.READY)

        past = bed.start_times.past(bed.model.entry.start_key)
        assert (past == {}) is adopts


async def test_an_engine_that_dies_says_when_it_may_start_again() -> None:
    async with made(back_off=7) as bed:
        await bed.model.start()
        bed.runtime.running["tgi-tiny"].die(Exit(1))
        await bed.until(State.FAILED)

        failure = bed.model.status.failure
        assert isinstance(failure, EngineDied)
        assert failure.retry_after == 7


async def test_an_engine_that_breaks_on_the_way_out_is_gone_as_was_asked() -> None:
    async with made() as bed:
        await bed.model.start()
        bed.runtime.may_leave.clear()
        stop = asyncio.create_task(bed.model.stop())
        await bed.until(State.STOPPING)
        bed.runtime.stop_refusal = RuntimeError("boom")
        bed.runtime.may_leave.set()

        await stop

        assert bed.model.status.state is State.STOPPED
        assert bed.model.status.failure is None
        bed.runtime.running.clear()


async def test_the_log_of_the_last_engine_outlives_a_start_that_has_none() -> None:
    async with made() as bed:
        await bed.model.start()
        bed.runtime.running["tgi-tiny"].log.append("the first")
        await bed.model.stop()
        assert await bed.log() == ["the first"]
        bed.runtime.refusal = LaunchError("no")
        with pytest.raises(StartFailed):
            await bed.model.start()

        assert await bed.log() == ["the first"]


async def test_the_log_of_the_engine_that_runs_is_read_before_that_of_the_last() -> None:
    async with made() as bed:
        for line in ("the first", "the second"):
            await bed.model.start()
            bed.runtime.running["tgi-tiny"].log.append(line)
            assert await bed.log() == [line]
            await bed.model.stop()


async def test_a_caller_of_stop_that_leaves_stops_nothing_for_the_others() -> None:
    async with made() as bed:
        await bed.model.start()
        bed.runtime.may_leave.clear()
        first, second = (asyncio.create_task(bed.model.stop()) for _ in range(2))
        await bed.until(State.STOPPING)
        first.cancel()
        await asyncio.wait([first])
        bed.runtime.may_leave.set()

        await second

        assert bed.model.status.state is State.STOPPED


async def test_a_run_that_is_used_again_is_not_evicted() -> None:
    async with made() as bed:
        await bed.model.start()
        run = bed.model._run
        assert run is not None
        async with bed.model.lease():
            assert not await run.evict()
            assert bed.model.status.state is State.READY

        assert await run.evict()
        assert bed.model.status.state is State.STOPPED  # and not only on the way there
        assert bed.runtime.running == {}


async def test_a_lease_on_a_run_that_dies_does_not_keep_the_next_from_starting() -> None:
    async with made(back_off=0) as bed:
        async with bed.model.lease() as lease:
            bed.runtime.running["tgi-tiny"].die(Exit(1))
            await bed.until(State.FAILED)
            async with bed.model.lease() as other:
                assert other.instance is not lease.instance
                assert bed.model.view().active_count == 1
        assert bed.model.status.state is State.READY


async def test_whoever_waits_for_a_start_that_is_stopped_is_answered_before_the_end() -> None:
    async with made() as bed:
        bed.runtime.may_leave.clear()
        bed.engine.may_answer.clear()
        caller = asyncio.create_task(bed.model.start())
        await bed.runtime.instance()
        stop = asyncio.create_task(bed.model.stop())

        async with within(PROMPTLY, "the caller waited for the end of the stop"):
            with pytest.raises(ModelStopped):
                await caller
        assert not stop.done()
        bed.runtime.may_leave.set()
        await stop


async def test_a_model_that_could_not_be_removed_is_failed_and_does_not_run() -> None:
    async with made(back_off=0) as bed:
        await bed.model.start()
        bed.runtime.stop_refusal = StopFailed("tiny", "tgi-tiny", "it will not go")
        with pytest.raises(StopFailed):
            await bed.model.stop()
        assert isinstance(bed.model.status.failure, StopFailed)

        bed.runtime.removes_at_last()
        await bed.model.start()
        assert bed.model.status.failure is None
