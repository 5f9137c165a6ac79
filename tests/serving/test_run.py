"""One run: what its callers are answered, what it teaches, and what is left of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager

import pytest

from inference_service.capacity.admission import Admission
from inference_service.capacity.nodes import LOCAL, Node
from inference_service.engines.exchange import Request
from inference_service.errors import (
    EngineDied,
    EngineHung,
    InsufficientMemory,
    LaunchError,
    ModelStopped,
    NotRunning,
    ShuttingDown,
    StartFailed,
    StopFailed,
)
from inference_service.lifecycle import State, Status
from inference_service.runtimes.base import Exit, Instance
from inference_service.serving.attempts import Attempts
from inference_service.serving.entry import Entry
from inference_service.serving.model import Model
from inference_service.serving.run import Run
from inference_service.serving.start_times import StartTimes
from inference_service.serving.timing import Timing
from tests.build import machine, timing
from tests.build import model as make_model
from tests.fakes import FakeEngine, FakeRuntime, spec
from tests.sinks import Kept
from tests.waiting import PROMPTLY, until, within


class Bed:
    """A model whose runs are looked at."""

    def __init__(self, times: Timing) -> None:
        self.runtime, self.engine = FakeRuntime(), FakeEngine()
        self.start_times = StartTimes()
        self.admission = machine(100 * 2**20)
        self.model = self.another("tiny", times)

    def another(self, model_id: str, times: Timing) -> Model:
        """A model in the same memory, which has room for one."""
        entry = spec(model_id)
        return make_model(entry, self.runtime, self.engine, times, self.admission, self.start_times)

    @property
    def run(self) -> Run:
        """The run of the model."""
        assert self.model._supervisor.runs is not None
        [run] = self.model._supervisor.runs
        return run

    async def until(self, state: State) -> None:
        async with within(PROMPTLY, f"the model is not {state}"):
            while self.model.status.state is not state:
                await self.model.changes.next()

    async def log(self) -> list[str]:
        async with aclosing(self.model.logs(10, follow=False)) as lines:
            return [line async for line in lines]


@asynccontextmanager
async def made(**times: float) -> AsyncGenerator[Bed]:
    bed = Bed(timing(**times))
    try:
        yield bed
    finally:  # a test that fails may not hang
        for gate in (bed.runtime.may_run, bed.runtime.may_leave):
            gate.set()
        await bed.model.close(0)


@pytest.mark.parametrize("adopts", [True, False])
async def test_the_start_of_an_engine_that_runs_already_teaches_nothing(adopts: bool) -> None:
    async with made() as bed:
        if adopts:
            bed.model.adopt([1])
        else:
            bed.model.begin()
        await bed.until(State.READY)

        past = bed.start_times.past(bed.model.entry.start_key)
        assert (past == {}) is adopts


async def test_an_adopted_engine_that_hangs_is_replaced_before_a_start_would_be_given_up() -> None:
    async with made(stall=600, hang=0.05, back_off=0.01) as bed:
        bed.engine.may_answer.clear()
        bed.model.adopt([1])
        hung = (await bed.runtime.engine()).instance
        asked = asyncio.create_task(Attempts(bed.model, 60).ask(Request("POST", "/words"), Kept()))
        await bed.until(State.FAILED)

        failure = bed.model.status.failure
        assert isinstance(failure, EngineHung)
        assert bed.runtime.running == {}
        bed.engine.dead.append(hung)
        bed.engine.may_answer.set()
        async with within(PROMPTLY, "the request did not go on to the next engine"):
            await asked
        assert len(bed.runtime.started) == 2


async def test_an_adopted_engine_that_still_starts_is_not_replaced_while_it_moves() -> None:
    async with made(stall=600, hang=0.2) as bed:
        bed.engine.may_answer.clear()
        bed.model.adopt([1])
        engine = await bed.runtime.engine()
        began = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() - began < 0.5:
            engine.log.append(f"load {asyncio.get_running_loop().time()}")
            await bed.model.changes.next()
        bed.engine.may_answer.set()
        await bed.until(State.READY)
        assert len(bed.runtime.started) == 1


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
        run = bed.run
        async with bed.model.lease():
            assert not await run.evict()
            assert run.serves

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
        await bed.runtime.engine()
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


async def test_a_lease_that_ends_with_an_error_gives_its_slot_back() -> None:
    async with made() as bed:
        bed.engine.concurrency = 1
        bed.model = bed.another("small", timing())
        with pytest.raises(ZeroDivisionError):
            async with bed.model.lease():
                raise ZeroDivisionError

        async with within(PROMPTLY, "the slot was not given back"), bed.model.lease():
            pass


async def test_a_slot_is_taken_until_the_engine_has_noticed_that_its_caller_left() -> None:
    async with made() as bed:
        bed.engine.concurrency = 1
        bed.model = bed.another("small", timing())
        works = asyncio.get_running_loop().create_future()
        async with bed.model.lease():
            bed.engine.left = [works]  # the engine has yet to notice

        async def next_caller() -> None:
            async with bed.model.lease():
                pass

        waiting = asyncio.create_task(next_caller())
        await until(lambda: bed.model.view().queued_count, "the next caller does not wait")
        assert not waiting.done()

        bed.engine.left = []
        works.set_result(None)
        async with within(PROMPTLY, "the slot was not given to the next caller"):
            await waiting


async def test_a_stop_does_not_wait_for_an_engine_that_notices_nothing() -> None:
    async with made() as bed:
        async with bed.model.lease():
            bed.engine.left = [asyncio.get_running_loop().create_future()]
        async with within(PROMPTLY, "the model was not stopped"):
            await bed.model.stop()


class SlowCaller:
    """A caller who is notified once, slowly, and wants a lease after that."""

    def __init__(self, model: Model) -> None:
        self.notified, self.may_go_on = asyncio.Event(), asyncio.Event()
        self._model = model

    async def notify(self, status: Status, position: int) -> None:
        self.notified.set()
        await self.may_go_on.wait()

    async def lease(self) -> str:
        async with self._model.lease(notify=self.notify) as lease:
            return lease.instance.name


async def test_a_caller_who_is_slow_to_take_a_ready_model_is_waited_for() -> None:
    async with made(idle=0) as bed:
        slow = SlowCaller(bed.model)
        caller = asyncio.create_task(slow.lease())
        await slow.notified.wait()
        await bed.until(State.READY)
        await asyncio.sleep(0.01)
        assert bed.model.status.state is State.READY
        slow.may_go_on.set()

        assert await caller == "tgi-tiny"
        assert bed.runtime.started == ["tgi-tiny"]


async def test_a_caller_who_is_slow_to_take_a_model_that_is_stopped_gets_the_next_run() -> None:
    async with made() as bed:
        slow = SlowCaller(bed.model)
        caller = asyncio.create_task(slow.lease())
        await slow.notified.wait()
        await bed.until(State.READY)
        bed.runtime.may_leave.clear()
        stop = asyncio.create_task(bed.model.stop())
        await bed.until(State.STOPPING)
        slow.may_go_on.set()
        await asyncio.sleep(0.01)
        assert bed.model.view().active_count == 0
        bed.runtime.may_leave.set()

        await stop
        assert await caller == "tgi-tiny"
        assert bed.runtime.started == ["tgi-tiny"] * 2


async def test_a_model_that_is_closed_begins_no_run() -> None:
    async with made() as bed:
        await bed.model.close(0)

        with pytest.raises(ShuttingDown):
            bed.model.begin()
        assert bed.model.status.state is State.STOPPED


async def test_a_stop_resets_the_back_off() -> None:
    async with made(back_off=60, back_off_longest=600) as bed:
        waits = []
        for _ in range(2):
            for _ in range(2):
                bed.model._supervisor.back_off._until = 0.0  # as if the time had passed
                bed.runtime.refusal = LaunchError("no")
                with pytest.raises(StartFailed):
                    await bed.model.start()
                waits.append(round(bed.model._supervisor.back_off.left))
            bed.model._supervisor.back_off._until = 0.0
            await bed.model.start()
            await bed.model.stop()

        assert waits == [60, 120] * 2


async def test_an_entry_that_can_never_fit_ends_the_run_and_begins_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with made() as bed:
        await bed.model.start()
        bed.runtime.may_leave.clear()
        huge = Entry.of(spec(memory="2GB"), bed.runtime, bed.engine)
        assert bed.model.change(huge)
        await bed.until(State.STOPPING)
        caller = asyncio.create_task(bed.model.start())
        bed.runtime.may_leave.set()

        async with within(PROMPTLY, "the caller was not answered"):
            with pytest.raises(InsufficientMemory):
                await caller
        assert bed.model.status.state is State.STOPPED
        assert "tiny is not started again: tiny needs 2.0 GB" in caplog.text
        await asyncio.gather(*bed.model._supervisor._tasks)  # none has failed


async def test_each_change_of_a_model_has_those_who_wait_for_memory_look_again() -> None:
    class Counting(Admission):
        looks = 0

        def changed(self) -> None:
            self.looks += 1
            super().changed()

    admission = Counting([Node(LOCAL, 10**9)])
    model = make_model(admission=admission)
    await model.start()

    before = admission.looks
    model.change(model.entry)
    assert admission.looks == before + 1
    async with model.lease():
        before = admission.looks
    assert admission.looks == before + 1
    await model.stop()


@pytest.mark.parametrize("turns", range(8))
async def test_a_stop_of_a_start_that_fails_at_that_moment_is_a_stop_or_comes_too_late(
    turns: int,
) -> None:
    async with made() as bed:
        bed.runtime.may_run.clear()
        bed.runtime.refusal = LaunchError("no")
        caller = asyncio.create_task(bed.model.start())
        await bed.until(State.STARTING)
        await asyncio.sleep(0.01)
        bed.runtime.may_run.set()
        for _ in range(turns):
            await asyncio.sleep(0)

        async with within(PROMPTLY, "the stop did not end"):
            try:
                await bed.model.stop()
            except NotRunning:
                assert bed.model.status.state is State.FAILED
            else:
                assert bed.model.status.state is State.STOPPED
            with pytest.raises((StartFailed, ModelStopped)):
                await caller


async def test_a_run_has_settled_when_its_start_is_over_and_is_not_evicted_twice() -> None:
    async with made() as bed:
        await bed.model.start()
        first = bed.run
        assert (first.settled, first.evictable) == (True, True)
        bed.runtime.may_leave.clear()
        stop = asyncio.create_task(bed.model.stop())
        await bed.until(State.STOPPING)
        assert (first.settled, first.evictable) == (True, False)
        bed.runtime.may_leave.set()
        await stop

        bed.engine.may_answer.clear()
        start = asyncio.create_task(bed.model.start())
        await bed.runtime.engine()
        second = bed.run
        assert (second.settled, second.evictable) == (False, False)
        assert (first.settled, first.evictable) == (True, False)
        bed.engine.may_answer.set()
        await start
        assert (second.settled, second.evictable) == (True, True)
        assert (first.settled, first.evictable) == (True, False)


@pytest.mark.parametrize("turns", range(10))
async def test_a_stop_of_a_start_that_succeeds_at_that_moment_is_a_stop(
    turns: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with made() as bed:
        looks: asyncio.Queue[asyncio.Future[bool]] = asyncio.Queue()

        async def ready(instance: Instance) -> bool:
            answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            if len(bed.runtime.started) > 1:
                return True
            await looks.put(answer)
            return await answer

        bed.engine.ready = ready  # type: ignore[method-assign]
        caller = asyncio.create_task(bed.model.start())
        (await looks.get()).set_result(True)
        for _ in range(turns):
            await asyncio.sleep(0)

        async with within(PROMPTLY, "the stop did not end, or the caller was not answered"):
            await bed.model.stop()
            assert bed.model.status.failure is None
            await asyncio.wait([caller])
        if (error := caller.exception()) is not None:
            assert isinstance(error, ModelStopped)
        else:  # it has used the first run, or waited for the second
            running = ["tgi-tiny"] if len(bed.runtime.started) == 2 else []
            assert [*bed.runtime.running] == running
    assert "fault" not in caplog.text


async def test_a_spell_of_service_forgives_failures_before_an_end_that_fails() -> None:
    async with made(back_off=60, back_off_longest=600, healthy_spell=0) as bed:
        bed.runtime.refusal = LaunchError("no")
        with pytest.raises(StartFailed):
            await bed.model.start()
        bed.model._supervisor.back_off._until = 0.0  # as if the time had passed
        await bed.model.start()
        bed.runtime.stop_refusal = StopFailed("tiny", "tgi-tiny", "it will not go")
        with pytest.raises(StopFailed):
            await bed.model.stop()

        assert round(bed.model._supervisor.back_off.left) == 60  # and not twice as long
        bed.runtime.removes_at_last()


async def test_a_model_that_is_pinned_while_it_runs_makes_no_room() -> None:
    async with made() as bed:
        await bed.model.start()
        run = bed.run
        assert run.evictable

        pinned = spec().model_copy(update={"pinned": True})
        assert not bed.model.change(Entry.of(pinned, bed.runtime, bed.engine))

        assert not run.evictable
