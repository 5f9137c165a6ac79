"""The wait of a request whose engine was lost, until another attempt makes sense."""

from __future__ import annotations

import asyncio

from inference_service.lifecycle import State
from inference_service.runtimes.base import Exit
from tests.build import model as make_model
from tests.build import reached, timing
from tests.fakes import FakeEngine, FakeRuntime, spec
from tests.waiting import PROMPTLY, within


async def test_the_next_start_ends_the_wait_whoever_began_it() -> None:
    runtime, engine = FakeRuntime(), FakeEngine()
    model = make_model(spec(), runtime, engine, timing(back_off=0))
    await model.start()
    runtime.running["tgi-tiny"].die(Exit(1))
    engine.may_answer.clear()
    await reached(model, State.FAILED)
    model.begin()

    async with within(PROMPTLY, "the request waits for an engine that only starts"):
        await model.recovered()

    assert model.status.state is State.STARTING
    await model.close(0)


async def test_an_engine_that_is_being_removed_has_not_recovered_though_it_answers() -> None:
    runtime, engine = FakeRuntime(), FakeEngine()
    model = make_model(spec(), runtime, engine, timing(back_off=0))
    await model.start()
    runtime.may_leave.clear()
    runtime.running["tgi-tiny"].die(Exit(1))
    for _ in range(20):  # until the run has noticed the death
        await asyncio.sleep(0)
    recovery = asyncio.create_task(model.recovered())
    done, _ = await asyncio.wait([recovery], timeout=0.05)
    assert not done

    runtime.may_leave.set()

    async with within(PROMPTLY, "the request waits though the engine is gone"):
        await recovery
    assert model.status.state is State.FAILED
    await model.close(0)


async def test_the_idle_timeout_ends_no_model_whose_engine_a_request_waits_for() -> None:
    runtime, engine = FakeRuntime(), FakeEngine()
    model = make_model(spec(), runtime, engine, timing(idle=0.05))
    await model.start()
    engine.may_answer.clear()

    recovery = asyncio.create_task(model.recovered(runtime.running["tgi-tiny"].instance))
    done, _ = await asyncio.wait([recovery], timeout=0.3)

    assert (done, model.status.state) == (set(), State.READY)
    engine.may_answer.set()
    async with within(PROMPTLY, "the request waits though the engine answers"):
        await recovery
    await reached(model, State.STOPPED)  # nobody uses it any more
    await model.close(0)
