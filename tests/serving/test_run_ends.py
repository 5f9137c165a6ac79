"""The ends of runs that `test_lifecycle_machine.py` has once found wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from inference_service.errors import ModelStopped, NotRunning
from inference_service.lifecycle import State
from inference_service.runtimes.base import Exit
from inference_service.serving.model import Model as Served
from tests.build import model as make_model
from tests.build import timing
from tests.fakes import spec
from tests.serving.faulty_runtime import FaultyRuntime
from tests.serving.manual_loop import on_manual_time
from tests.waiting import PROMPTLY, within

SOON = 1e-3


@asynccontextmanager
async def held(
    tidying: float = 0,
) -> AsyncGenerator[tuple[Served, FaultyRuntime, asyncio.Task[None]]]:
    """Hold a lease of a model until it is cut, and the block for `tidying` seconds after that."""
    runtime = FaultyRuntime()
    served = make_model(spec(), runtime, timing=timing(back_off=0))
    granted = asyncio.Event()

    async def hold() -> None:
        async with served.lease():
            granted.set()
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(tidying)

    holder = asyncio.create_task(hold())
    await granted.wait()
    yield served, runtime, holder
    runtime.may_remove.set()
    holder.cancel()
    await asyncio.wait([holder])
    await served.close(0)


async def test_a_stop_at_the_very_end_of_a_crash_is_answered() -> None:
    for iterations in range(30):  # the clean-up of the crash takes fewer
        async with held() as (served, runtime, _), within(PROMPTLY, "the stop did not return"):
            assert runtime.current is not None
            runtime.current.die(Exit(1))
            for _ in range(iterations):
                await asyncio.sleep(0)
            try:
                await served.stop(0)
            except NotRunning:
                assert served.status.state is State.FAILED
            else:
                assert served.status.state is State.STOPPED


def test_a_later_stop_never_lengthens_the_drain() -> None:
    async def stop_twice() -> None:
        async with held() as (served, _, holder):
            begun = asyncio.get_running_loop().time()
            first = asyncio.create_task(served.stop(20))
            await asyncio.sleep(15)
            await served.stop(10)
            await first
            assert asyncio.get_running_loop().time() - begun < 20 + SOON
            assert isinstance(holder.exception(), ModelStopped)

    on_manual_time(stop_twice())


def test_a_stop_may_come_while_the_block_of_a_cut_lease_still_runs() -> None:
    async def stop_twice() -> None:
        async with held(tidying=5) as (served, _, holder):
            first = asyncio.create_task(served.stop(10))
            await asyncio.sleep(12)
            await served.stop(0)
            await first
            assert isinstance(holder.exception(), ModelStopped)

    on_manual_time(stop_twice())


def test_no_caller_gets_an_engine_that_is_dead_and_not_removed_yet() -> None:
    async def ask() -> None:
        async with held() as (served, runtime, _):
            runtime.may_remove.clear()
            dead = runtime.current
            assert dead is not None
            dead.die(Exit(1))
            await asyncio.sleep(1)
            caller = asyncio.create_task(served.start())
            await asyncio.sleep(1)
            assert not caller.done()
            runtime.may_remove.set()
            await caller
            assert runtime.current is not dead

    on_manual_time(ask())
