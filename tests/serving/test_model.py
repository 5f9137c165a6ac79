"""The invariants of a model, with their numbers in docs/architecture.md."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from inference_service.errors import (
    EngineDied,
    LaunchError,
    ModelStopped,
    ModelUnusable,
    NotRunning,
    RuntimeUnavailable,
    ServiceError,
    ShuttingDown,
    StartBackingOff,
    StartFailed,
    StartStalled,
    StopFailed,
    Unlaunchable,
)
from inference_service.lifecycle import Phase, State, Status
from inference_service.runtimes.base import Exit
from inference_service.serving.model import Model
from inference_service.serving.timing import Timing
from tests.build import generate, idle_in, reached, timing
from tests.build import model as make_model
from tests.fakes import FakeEngine, FakeRuntime, spec
from tests.waiting import SLOWLY, WHOLE, within

QUICK = timing(stall=30, poll_longest=0.001, back_off=60)


@asynccontextmanager
async def made(
    times: Timing = QUICK,
    concurrency: int = 128,
) -> AsyncGenerator[tuple[Model, FakeRuntime, FakeEngine]]:
    """Make a model over fakes; nothing of it may be left at the end."""
    runtime, engine = FakeRuntime(), FakeEngine(concurrency)
    model = make_model(spec(), runtime, engine, times)
    async with within(WHOLE, "not every lease, start and stop was answered"):
        yield model, runtime, engine
    for gate in (runtime.may_pull, runtime.may_run, runtime.may_leave, engine.may_speak):
        gate.set()
    async with within(SLOWLY, "the model was not closed"):
        await model.close(0)
    assert runtime.running == {}
    assert engine.open == 0
    assert not [t for t in asyncio.all_tasks() if t.get_name().startswith("run of")]


async def test_a_lease_starts_the_model_and_reports_the_progress() -> None:
    async with made() as (model, runtime, engine):
        runtime.may_pull.clear()
        engine.may_answer.clear()
        seen: list[Phase | None] = []

        async def notify(status: Status, position: int) -> None:
            assert (status.state, position) == (State.STARTING, 0)
            seen.append(status.progress.phase if status.progress else None)
            match seen[-1]:
                case Phase.PULLING_IMAGE:
                    runtime.may_pull.set()
                case Phase.CREATING_CONTAINER:
                    (await runtime.engine()).log.append("loading the weights")
                case Phase.LOADING_WEIGHTS:
                    engine.may_answer.set()

        async with model.lease(notify=notify):
            pass

        assert seen == [
            None,
            Phase.PULLING_IMAGE,
            Phase.CREATING_CONTAINER,
            Phase.LOADING_WEIGHTS,
        ]
        assert await generate(model) == " word word word"
        assert (model.status.container, model.status.port) == ("tgi-tiny", 8080)


async def test_invariant_2_a_cancel_of_the_first_caller_does_not_end_the_start() -> None:
    async with made() as (model, runtime, engine):
        engine.may_answer.clear()
        first, second = (asyncio.create_task(generate(model)) for _ in range(2))
        await runtime.engine()

        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        engine.may_answer.set()

        assert await second == " word word word"
        assert runtime.started == ["tgi-tiny"]


async def test_invariant_2_a_start_goes_on_when_all_its_callers_have_left() -> None:
    async with made() as (model, runtime, engine):
        engine.may_answer.clear()
        caller = asyncio.create_task(generate(model))
        await runtime.engine()
        caller.cancel()
        await asyncio.wait([caller])

        engine.may_answer.set()
        await reached(model, State.READY)

        assert model.view().active_count == 0


async def test_invariant_3_a_thousand_callers_start_one_container_and_get_one_answer_each() -> None:
    async with made() as (model, runtime, _):
        runtime.may_pull.clear()
        callers = [asyncio.create_task(generate(model)) for _ in range(1000)]
        await reached(model, State.STARTING)
        runtime.may_pull.set()

        assert await asyncio.gather(*callers) == [" word word word"] * 1000
        assert runtime.started == ["tgi-tiny"]
        assert model.view().active_count == 0


async def test_invariant_3_all_callers_of_a_failing_start_are_answered_with_its_cause() -> None:
    async with made() as (model, runtime, _):
        runtime.may_run.clear()
        runtime.refusal = LaunchError("no such image")
        callers = [asyncio.create_task(generate(model)) for _ in range(100)]
        await reached(model, State.STARTING)
        runtime.may_run.set()

        answers = await asyncio.gather(*callers, return_exceptions=True)

        assert all(isinstance(a, StartFailed) and "no such image" in a.message for a in answers)


async def test_invariant_4_a_stop_drains_the_requests_that_run() -> None:
    async with made() as (model, runtime, engine):
        engine.may_speak.clear()
        caller = asyncio.create_task(generate(model))
        await engine.generates()
        stop = asyncio.create_task(model.stop())
        await reached(model, State.STOPPING)

        assert "tgi-tiny" in runtime.running
        engine.may_speak.set()

        assert await caller == " word word word"
        await stop
        assert runtime.running == {}


async def test_invariant_4_a_request_beyond_the_drain_is_cut_with_the_reason() -> None:
    async with made() as (model, _, engine):
        engine.may_speak.clear()
        caller = asyncio.create_task(generate(model))
        await engine.generates()

        await model.stop(drain=0.01)

        with pytest.raises(ModelStopped):
            await caller
        assert engine.open == 0


async def test_a_second_stop_shortens_the_drain_of_the_first() -> None:
    async with made() as (model, _, engine):
        engine.may_speak.clear()
        caller = asyncio.create_task(generate(model))
        await engine.generates()
        patient = asyncio.create_task(model.stop(drain=3600))
        await reached(model, State.STOPPING)

        await model.stop(drain=0)

        await patient
        with pytest.raises(ModelStopped):
            await caller


async def test_invariant_5_stop_returns_when_the_container_is_gone() -> None:
    async with made() as (model, runtime, _):
        await model.start()
        runtime.may_leave.clear()
        stop = asyncio.create_task(model.stop())
        await reached(model, State.STOPPING)
        assert not stop.done()
        runtime.may_leave.set()

        await stop

        assert runtime.running == {}
        assert model.status.state is State.STOPPED


async def test_a_caller_during_a_stop_gets_a_new_container_after_it() -> None:
    async with made() as (model, runtime, _):
        await model.start()
        runtime.may_leave.clear()
        stop = asyncio.create_task(model.stop())
        await reached(model, State.STOPPING)
        caller = asyncio.create_task(generate(model))
        runtime.may_leave.set()

        assert await caller == " word word word"
        await stop
        assert runtime.started == ["tgi-tiny", "tgi-tiny"]


@pytest.mark.parametrize("gate", ["may_pull", "may_run", "may_answer"])
async def test_a_stop_ends_a_start_at_any_point(gate: str) -> None:
    async with made() as (model, runtime, engine):
        getattr(engine if gate == "may_answer" else runtime, gate).clear()
        caller = asyncio.create_task(generate(model))
        await reached(model, State.STARTING)

        await model.stop()

        with pytest.raises(ModelStopped):
            await caller
        assert runtime.running == {}
        assert model.status.state is State.STOPPED


async def test_a_stop_of_a_model_that_does_not_run_is_refused() -> None:
    async with made() as (model, *_):
        with pytest.raises(NotRunning, match="tiny is not running"):
            await model.stop()


async def test_a_stop_that_fails_raises_for_each_caller() -> None:
    async with made() as (model, runtime, _):
        await model.start()
        runtime.stop_refusal = StopFailed("tiny", "tgi-tiny", "it will not go")
        stops = [asyncio.create_task(model.stop()) for _ in range(2)]

        answers = await asyncio.gather(*stops, return_exceptions=True)

        assert all(isinstance(answer, StopFailed) for answer in answers)
        assert model.status.state is State.FAILED
        runtime.running.clear()


async def test_invariant_8_a_failed_start_backs_off_and_names_its_cause() -> None:
    async with made() as (model, runtime, engine):
        engine.may_answer.clear()
        caller = asyncio.create_task(generate(model))
        (await runtime.engine()).die(Exit(137, oom_killed=True), "loading", "out of memory")

        with pytest.raises(StartFailed) as failed:
            await caller
        with pytest.raises(StartBackingOff) as refused:
            await generate(model)

        assert failed.value.metadata == {
            "model_id": "tiny",
            "phase": "START_PHASE_LOADING_WEIGHTS",
            "exit_code": "137",
            "oom_killed": "true",
        }
        assert failed.value.log == ("loading", "out of memory")
        assert "out of memory" in failed.value.message
        assert "out of memory" in refused.value.message
        assert refused.value.retry_after is not None
        assert 0 < refused.value.retry_after <= 60
        assert model.status.state is State.FAILED
        assert model.status.retry_at is not None
        assert runtime.started == ["tgi-tiny"]


async def test_invariant_8_the_back_off_doubles_to_a_limit_and_a_stop_forgives() -> None:
    times = timing(back_off=0.2, back_off_longest=0.6)
    async with made(times) as (model, runtime, _):
        waits = []
        for _ in range(4):
            runtime.refusal = LaunchError("no")
            with pytest.raises(StartFailed):
                await model.start()
            with pytest.raises(StartBackingOff) as refused:
                await model.start()
            waits.append(refused.value.retry_after or 0)
            await asyncio.sleep(waits[-1])

        assert waits == pytest.approx([0.2, 0.4, 0.6, 0.6], abs=0.1)
        assert await generate(model) == " word word word"


async def test_a_stop_of_a_failed_model_ends_its_back_off() -> None:
    async with made(timing(back_off=3600, back_off_longest=3600)) as (model, runtime, _):
        runtime.refusal = LaunchError("no")
        with pytest.raises(StartFailed):
            await model.start()
        with pytest.raises(StartBackingOff, match="before 3600 s have passed"):
            await model.start()
        with pytest.raises(NotRunning):
            await model.stop()

        status = model.status
        assert status.state is State.FAILED
        assert status.retry_at is not None
        assert status.retry_at <= time.time()
        assert await generate(model) == " word word word"


@pytest.mark.parametrize(
    ("code", "last"), [(None, "no such file"), (4, "no such file"), (127, "not found")]
)
async def test_a_failure_that_no_retry_mends_says_so_in_the_back_off_too(
    code: int | None, last: str
) -> None:
    async with made(timing(back_off=3600, back_off_longest=3600)) as (model, runtime, engine):
        if code is not None:
            engine.may_answer.clear()
            caller = asyncio.create_task(generate(model))
            (await runtime.engine()).die(Exit(code), "loading", last)
        else:
            runtime.refusal = Unlaunchable("no such file")
            caller = asyncio.create_task(generate(model))
        with pytest.raises(ModelUnusable) as failed:
            await caller
        with pytest.raises(ModelUnusable) as refused:
            await generate(model)

        assert failed.value.message.endswith(f"): {last}")
        assert refused.value.message.startswith(failed.value.message)
        assert refused.value.metadata == failed.value.metadata
        assert failed.value.metadata.get("exit_code") == (None if code is None else str(code))
        assert refused.value.log == failed.value.log == (("loading", last) * (code is not None))
        assert refused.value.retry_after is None
        engine.may_answer.set()
        with pytest.raises(NotRunning):
            await model.stop()
        assert await generate(model) == " word word word"


@pytest.mark.parametrize(("spell", "waits"), [(0.0, [0.05, 0.05]), (3600.0, [0.05, 0.1])])
async def test_an_engine_that_has_served_for_long_enough_is_forgiven_earlier_failures(
    spell: float, waits: list[float]
) -> None:
    async with made(timing(back_off=0.05, healthy_spell=spell)) as (
        model,
        runtime,
        _,
    ):
        seen = []
        for _ in range(2):
            await model.start()
            runtime.running["tgi-tiny"].die(Exit(1))
            await reached(model, State.FAILED)
            assert isinstance(model.status.failure, EngineDied)
            seen.append(model.status.failure.retry_after)
            await asyncio.sleep(seen[-1] or 0)

        assert seen == waits


async def test_an_engine_that_dies_while_it_serves_is_removed_and_started_by_the_next_caller() -> (
    None
):
    async with made(timing(back_off=0.01)) as (model, runtime, _):
        await model.start()
        runtime.running["tgi-tiny"].die(Exit(1), "CUDA error")
        await reached(model, State.FAILED)
        failure = model.status.failure
        assert failure is not None
        assert failure.message == "the engine of tiny exited with code 1: CUDA error"
        await asyncio.sleep(0.02)

        assert await generate(model) == " word word word"
        assert runtime.started == ["tgi-tiny", "tgi-tiny"]


async def test_an_engine_that_hangs_is_replaced() -> None:
    times = timing(probe=0.01, hang=0.05, back_off=0.01)
    async with made(times) as (model, runtime, engine):
        await model.start()
        engine.may_answer.clear()
        await reached(model, State.FAILED)
        assert model.status.failure is not None
        assert "answered nothing" in model.status.failure.message
        assert runtime.running == {}

        engine.may_answer.set()
        await asyncio.sleep(0.02)
        assert await generate(model) == " word word word"


async def test_a_status_that_does_not_change_is_reported_again() -> None:
    async with made(timing(heartbeat=0.01)) as (model, _, engine):
        engine.may_answer.clear()
        seen: list[Status] = []

        async def notify(status: Status, _: int) -> None:
            seen.append(status)
            if len(seen) == 10:
                engine.may_answer.set()

        async with model.lease(notify=notify):
            assert seen[-1] == seen[-2]


async def test_invariant_7_a_start_in_which_nothing_moves_is_given_up() -> None:
    async with made(timing(stall=0.05)) as (model, runtime, engine):
        engine.may_answer.clear()
        caller = asyncio.create_task(generate(model))
        (await runtime.engine()).log.append("waiting for nothing")

        with pytest.raises(StartStalled, match="waiting for nothing"):
            await caller


async def test_invariant_7_progress_puts_the_stall_off() -> None:
    async with made(timing(stall=0.2)) as (model, runtime, engine):
        engine.may_answer.clear()
        caller = asyncio.create_task(generate(model))
        instance = await runtime.engine()
        for step in range(10):  # together longer than the stall
            instance.log.append(f"load {step}")
            await asyncio.sleep(0.03)
        engine.may_answer.set()

        assert await caller == " word word word"


async def test_invariant_6_an_unused_model_is_stopped() -> None:
    async with made(timing(idle=0.05)) as (model, runtime, _):
        assert await generate(model) == " word word word"
        assert 0 < idle_in(model) <= 0.05

        await reached(model, State.STOPPED)

        assert runtime.running == {}
        assert await generate(model) == " word word word"


async def test_invariant_6_idle_time_counts_from_the_end_of_the_last_request() -> None:
    async with made(timing(idle=0.5)) as (model, runtime, engine):
        engine.may_speak.clear()
        caller = asyncio.create_task(generate(model))
        await engine.generates()
        await asyncio.sleep(0.75)  # a request longer than the idle timeout
        assert model.status.state is State.READY
        engine.may_speak.set()
        await caller
        for _ in range(5):  # together longer than the idle timeout
            await asyncio.sleep(0.15)
            await generate(model)

        assert runtime.started == ["tgi-tiny"]
        await reached(model, State.STOPPED)


async def test_invariant_6_a_caller_that_waits_for_ready_is_served_before_idleness() -> None:
    async with made(timing(idle=0)) as (model, runtime, _):
        callers = [asyncio.create_task(generate(model)) for _ in range(20)]

        assert await asyncio.gather(*callers) == [" word word word"] * 20
        await reached(model, State.STOPPED)
        assert runtime.started == ["tgi-tiny"]


async def test_a_request_sets_the_idle_timeout_until_the_next_one() -> None:
    async with made() as (model, *_):
        async with model.lease(idle_timeout=3600):
            pass
        assert idle_in(model) > 3590
        async with model.lease():
            pass
        assert idle_in(model) == math.inf  # the model's own timeout
        async with model.lease(idle_timeout=0):
            pass
        await reached(model, State.STOPPED)


async def test_no_request_shortens_the_idle_timeout_of_a_pinned_model() -> None:
    pinned = spec().model_copy(update={"pinned": True, "idle_timeout": 0.0})
    model = make_model(pinned, timing=QUICK)
    async with model.lease(idle_timeout=0):
        pass
    assert idle_in(model) == math.inf
    await model.stop()
    assert model.status.state is State.STOPPED


async def test_invariant_10_leaving_a_lease_ends_the_request_in_the_engine() -> None:
    async with made() as (model, _, engine):
        engine.may_speak.clear()
        caller = asyncio.create_task(generate(model))
        await engine.generates()

        caller.cancel()
        await asyncio.wait([caller])

        assert engine.open == 0
        assert model.view().active_count == 0
        assert model.status.state is State.READY


async def test_a_runtime_that_does_not_answer_is_unavailable_for_callers() -> None:
    async with made() as (model, runtime, _):
        runtime.refusal = RuntimeUnavailable("no such file")

        with pytest.raises(RuntimeUnavailable):
            await generate(model)

        assert model.status.state is State.FAILED


async def test_after_close_callers_are_refused_and_nothing_runs() -> None:
    async with made() as (model, runtime, engine):
        engine.may_speak.clear()
        caller = asyncio.create_task(generate(model))
        await engine.generates()

        await model.close(0)

        for attempt in (caller, generate(model), model.start()):
            with pytest.raises(ShuttingDown):
                await attempt
        assert runtime.running == {}


async def test_a_lease_passes_an_error_of_its_caller_on_unchanged() -> None:
    async with made() as (model, *_):
        with pytest.raises(TimeoutError):
            async with model.lease():
                raise TimeoutError
        with pytest.raises(ServiceError) as raised:
            async with model.lease():
                raise ServiceError("no")
        assert raised.value.metadata == {"model_id": "tiny"}


async def test_a_reader_that_stalls_on_a_dead_engine_takes_no_slot_from_the_next() -> None:
    async with made(timing(back_off=0), concurrency=1) as (model, runtime, _):
        positions: asyncio.Queue[int] = asyncio.Queue()

        async def wait_for_a_slot() -> None:
            async with model.lease(notify=lambda _, position: positions.put(position)):
                pass

        async with model.lease():
            waiting = asyncio.create_task(wait_for_a_slot())
            assert await positions.get() == 1
            (await runtime.engine()).die(Exit(1))
            with pytest.raises(EngineDied, match="exited with code 1"):
                await waiting

            assert await generate(model) == " word word word"
            assert runtime.started == ["tgi-tiny"] * 2
