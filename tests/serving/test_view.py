"""A model as it is shown, in each state and through a change of its entry."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from inference_service.catalog import ModelSpec
from inference_service.lifecycle import Phase, State
from inference_service.serving.entry import Entry
from inference_service.serving.model import Model
from inference_service.serving.start_times import StartTimes
from tests.build import idle_in, timing
from tests.build import model as make_model
from tests.fakes import FakeEngine, FakeRuntime, spec
from tests.waiting import PROMPTLY, within


class Bed:
    """A model whose start and stop are held by the gates of its runtime."""

    def __init__(self) -> None:
        self.runtime, self.engine, self.start_times = FakeRuntime(), FakeEngine(), StartTimes()
        self.model: Model = make_model(
            spec(), self.runtime, self.engine, timing(idle=900), start_times=self.start_times
        )

    def change(self, spec: ModelSpec) -> bool:
        return self.model.change(Entry.of(spec, self.runtime, self.engine))

    async def until(self, state: State) -> None:
        async with within(PROMPTLY, f"the model is not {state}"):
            while self.model.status.state is not state:
                await self.model.changes.next()

    async def stopping(self) -> asyncio.Task[None]:
        """Stop the model as far as STOPPING."""
        self.runtime.may_leave.clear()
        stop = asyncio.create_task(self.model.stop())
        await self.until(State.STOPPING)
        return stop


@pytest.fixture
async def bed() -> AsyncGenerator[Bed]:
    bed = Bed()
    yield bed
    for gate in (bed.runtime.may_pull, bed.runtime.may_leave):  # a test that fails may not hang
        gate.set()
    await bed.model.close(0)


async def test_expire_time_is_unset_but_while_a_model_is_ready_and_unused(bed: Bed) -> None:
    never = float("inf")
    assert idle_in(bed.model) == never
    bed.runtime.may_pull.clear()
    bed.model.begin()
    assert idle_in(bed.model) == never
    bed.runtime.may_pull.set()
    await bed.until(State.READY)

    assert 890 < idle_in(bed.model) <= 900
    async with bed.model.lease():
        assert (bed.model.view().active_count, idle_in(bed.model)) == (1, never)
    assert 890 < idle_in(bed.model) <= 900

    stop = await bed.stopping()
    assert idle_in(bed.model) == never
    bed.runtime.may_leave.set()
    await stop
    assert idle_in(bed.model) == never


async def test_the_start_that_is_shown_is_as_far_as_it_is_now(bed: Bed) -> None:
    bed.start_times.record(bed.model.entry.start_key, {Phase.LOADING_WEIGHTS: 50.0})
    bed.engine.may_answer.clear()
    start = asyncio.create_task(bed.model.start())
    (await bed.runtime.engine()).log.append("load 1")
    await asyncio.sleep(0.01)

    first = bed.model.view().status.remaining or 0
    await asyncio.sleep(0.01)
    assert 0 < (bed.model.view().status.remaining or 0) < first <= 50
    bed.engine.may_answer.set()
    await start
    await bed.model.stop()


@pytest.mark.parametrize("by", ["reload", "stop"])
async def test_a_run_that_ends_is_shown_with_its_own_entry_to_its_end(bed: Bed, by: str) -> None:
    await bed.model.start()
    larger = spec(memory="65MiB")
    stop = None
    if by == "stop":
        stop = await bed.stopping()
        assert not bed.change(larger)
    else:
        bed.runtime.may_leave.clear()
        assert bed.change(larger)
        await bed.until(State.STOPPING)

    assert bed.model.view().memory_bytes == 64 * 2**20
    bed.runtime.may_leave.set()
    if stop is not None:
        await stop
    else:
        await bed.until(State.READY)
    assert bed.model.view().memory_bytes == 65 * 2**20


async def test_an_equal_entry_is_shown_at_once_in_each_state(bed: Bed) -> None:
    names = iter("abcdefgh")

    def shown() -> None:
        name = next(names)
        assert not bed.change(spec().model_copy(update={"hf_name": name}))
        assert bed.model.view().hf_name == name

    shown()
    bed.runtime.may_pull.clear()
    bed.model.begin()
    shown()
    bed.runtime.may_pull.set()
    await bed.until(State.READY)
    shown()
    stop = await bed.stopping()
    shown()
    bed.runtime.may_leave.set()
    await stop
    shown()
