"""Who is let in, who makes room, and who waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from inference_service.admission import Admission
from inference_service.errors import InsufficientMemory, StopFailed
from inference_service.lifecycle import Phase, State
from inference_service.placement import Resident, evictions
from inference_service.supervisor import Supervisor, Timing
from tests.fakes import FakeEngine, FakeRuntime, spec

MIB = 2**20


def resident(name: str, size: int, used_at: float, evictable: bool = True) -> Resident:
    return Resident(name, size, evictable, used_at)


@pytest.mark.parametrize(
    ("need", "residents", "expected"),
    [
        pytest.param(4, [], (), id="empty machine"),
        pytest.param(4, [resident("a", 6, 1)], (), id="fits beside"),
        pytest.param(5, [resident("a", 6, 1)], ("a",), id="evicts the only one"),
        pytest.param(
            5, [resident("a", 4, 2), resident("b", 4, 1)], ("b",), id="least recently used first"
        ),
        pytest.param(
            9, [resident("a", 4, 2), resident("b", 4, 1)], ("b", "a"), id="as many as it takes"
        ),
        pytest.param(5, [resident("a", 6, 1, evictable=False)], None, id="in use"),
        pytest.param(
            5,
            [resident("a", 4, 1, evictable=False), resident("b", 4, 2)],
            ("b",),
            id="never one in use",
        ),
        pytest.param(
            7, [resident("a", 1, 1), resident("b", 6, 2)], ("b",), id="none that need not go"
        ),
    ],
)
def test_evictions(need: int, residents: list[Resident], expected: tuple[str, ...] | None) -> None:
    assert evictions(need, 10, residents) == expected


class House:
    """Models of 4, 4 and 8 MiB (times ten) on a machine of 100 MiB."""

    def __init__(self, timing: Timing) -> None:
        self.runtime, self.engine = FakeRuntime(), FakeEngine()
        self.admission = Admission(100 * MIB)
        self.small, self.other, self.large, self.huge = (
            Supervisor(spec(name, memory=memory), self.runtime, self.engine, timing, self.admission)
            for name, memory in (
                ("small", "40MiB"),
                ("other", "40MiB"),
                ("large", "80MiB"),
                ("huge", "200MiB"),
            )
        )


@asynccontextmanager
async def house(timing: Timing | None = None) -> AsyncGenerator[House]:
    built = House(timing or Timing(poll=0.001))
    yield built
    for model in (built.small, built.other, built.large, built.huge):
        await model.close(0)
    assert built.runtime.running == {}
    assert built.admission.free_bytes == built.admission.capacity_bytes


async def waits(model: Supervisor) -> None:
    while not (model.status.progress and model.status.progress.phase is Phase.WAITING):
        await model._changed.wait()


async def test_models_that_fit_run_side_by_side() -> None:
    async with house() as h:
        await h.small.start()
        await h.other.start()

        assert set(h.runtime.running) == {"tgi-small", "tgi-other"}
        assert h.admission.free_bytes == 20 * MIB


async def test_what_could_not_be_removed_keeps_its_memory_until_it_has_gone() -> None:
    async with house() as h:
        await h.small.start()
        h.runtime.stop_refusal = StopFailed("it will not go")
        with pytest.raises(StopFailed):
            await h.small.stop()
        assert h.admission.free_bytes == 60 * MIB
        starting = asyncio.create_task(h.large.start())
        await waits(h.large)
        assert h.large.status.progress is not None
        assert h.large.status.progress.message == "waits for memory that small use"

        h.runtime.removes_at_last()
        await starting
        assert h.admission.free_bytes == 20 * MIB


async def test_what_could_not_be_removed_starts_again_in_the_memory_that_it_has() -> None:
    async with house(Timing(poll=0.001, back_off=0)) as h:
        await h.large.start()
        h.runtime.stop_refusal = StopFailed("it will not go")
        with pytest.raises(StopFailed):
            await h.large.stop()
        h.runtime.running.clear()  # as if by a stranger

        await h.large.start()
        assert h.admission.free_bytes == 20 * MIB
        await h.large.stop()
        assert h.admission.free_bytes == 100 * MIB


async def test_the_least_recently_used_makes_room() -> None:
    async with house() as h:
        third = Supervisor(
            spec("third", memory="40MiB"),
            h.runtime,
            h.engine,
            Timing(poll=0.001),
            h.admission,
        )
        await h.small.start()
        await h.other.start()
        async with h.small.lease():
            pass

        assert h.admission.plan(third) == ("other",)
        await third.start()

        assert set(h.runtime.running) == {"tgi-small", "tgi-third"}
        assert h.other.status.state is State.STOPPED
        await third.close(0)


async def test_a_model_in_use_is_waited_for_and_never_evicted() -> None:
    async with house() as h:
        async with h.small.lease():
            assert h.admission.plan(h.large) is None
            start = asyncio.create_task(h.large.start())
            await waits(h.large)
            assert h.large.status.progress is not None
            assert h.large.status.progress.message == "waits for memory that small use"
            assert h.large.status.progress.place == 1
            assert "tgi-small" in h.runtime.running

        await start
        assert set(h.runtime.running) == {"tgi-large"}


async def test_nobody_overtakes_a_large_model_that_waits() -> None:
    async with house() as h:
        async with h.small.lease():
            large = asyncio.create_task(h.large.start())
            await waits(h.large)
            other = asyncio.create_task(h.other.start())  # would fit beside `small`
            await asyncio.sleep(0.02)
            assert not other.done()

        await large
        await other
        assert h.runtime.started == ["tgi-small", "tgi-large", "tgi-other"]


async def test_what_can_never_fit_is_refused_at_once_and_each_time() -> None:
    async with house() as h:
        await h.small.start()
        for _ in range(2):
            with pytest.raises(InsufficientMemory, match=r"needs 0\.2 GB") as refused:
                await h.huge.start()
        assert refused.value.metadata["required_bytes"] == str(200 * MIB)
        assert refused.value.metadata["capacity_bytes"] == str(100 * MIB)
        assert set(h.runtime.running) == {"tgi-small"}
        assert h.huge.status.state is State.STOPPED


async def test_a_stop_ends_the_wait_for_memory() -> None:
    async with house() as h:
        async with h.small.lease():
            start = asyncio.create_task(h.large.start())
            await waits(h.large)
            await h.large.stop()
            await asyncio.wait([start])

        assert start.exception() is not None
        await h.other.start()  # the queue is free again


async def test_a_model_keeps_its_place_for_a_minimum_time() -> None:
    async with house(Timing(poll=0.001, residency=0.3)) as h:
        await h.small.start()
        begun = asyncio.get_running_loop().time()

        await h.large.start()

        assert asyncio.get_running_loop().time() - begun >= 0.29
        assert set(h.runtime.running) == {"tgi-large"}


async def test_a_pinned_model_makes_no_room() -> None:
    async with house() as h:
        pinned = Supervisor(
            spec("pinned", memory="40MiB").model_copy(update={"pinned": True}),
            h.runtime,
            h.engine,
            Timing(poll=0.001),
            h.admission,
        )
        await pinned.start()

        assert h.admission.plan(h.large) is None
        await pinned.stop()


async def test_a_failed_start_gives_its_memory_back() -> None:
    async with house() as h:
        h.runtime.refusal = RuntimeError("boom")
        with pytest.raises(Exception, match="boom"):
            await h.large.start()

        assert h.admission.free_bytes == h.admission.capacity_bytes


async def test_many_models_take_turns_without_a_deadlock() -> None:
    async with house() as h:

        async def use(model: Supervisor) -> None:
            for _ in range(10):
                async with model.lease():
                    await asyncio.sleep(0)

        async with asyncio.timeout(30):
            await asyncio.gather(*(use(m) for m in (h.small, h.large, h.other) for _ in range(3)))
