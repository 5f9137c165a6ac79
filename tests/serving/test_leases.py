"""The leases of one run: its idle timer, its drain and its cut."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Coroutine
from typing import Any

import pytest

from inference_service.serving.checks import Checks
from inference_service.serving.entry import Entry
from inference_service.serving.leases import Lease, Leases, WasCut
from inference_service.serving.slots import Slots
from tests.fakes import FakeEngine, FakeRunning, FakeRuntime, spec
from tests.waiting import PROMPTLY, within


def entry(**changes: object) -> Entry:
    return Entry.of(spec().model_copy(update=changes), FakeRuntime(), FakeEngine())


class Bed:
    """The leases of a run; `released` counts how often the run has become unused."""

    def __init__(self, idle: float = 900, ready: bool = True) -> None:
        self.slots: Slots[str] = Slots(
            "tiny",
            lambda: None,
            lambda _: None,
            1,
            heartbeat=10,
            released=lambda: self.leases.check_released(),
        )
        self.cuts = 0
        self.entry = entry()
        running = FakeRunning("tgi-tiny", 8080)
        self.instance, self.checks = running.instance, Checks(running)
        self.leases = Leases(self.entry, self.slots, idle, self._release, self._cut)
        self.released = 0
        self.may_leave = asyncio.Event()
        if ready:
            self.leases.ready()

    def _release(self) -> None:
        assert not self.leases.in_use
        self.released += 1

    def _cut(self) -> None:
        self.cuts += 1

    def give(self, lease: Lease) -> None:
        """Take a lease back, as the model does."""
        self.leases.use(None)
        self.leases.give(lease)

    async def use(self) -> None:
        """Use the run until the lease is cut, and leave when `may_leave` is set."""
        lease = self.leases.take(self.instance, self.checks)
        try:
            with lease.cut:
                try:
                    await asyncio.Event().wait()
                finally:
                    await self.may_leave.wait()
        finally:
            self.give(lease)


async def begun(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    task = asyncio.create_task(coroutine)
    for _ in range(3):
        await asyncio.sleep(0)
    return task


async def ended(task: asyncio.Task[None], missing: str) -> None:
    async with within(PROMPTLY, missing):
        await asyncio.wait([task])


async def test_the_idle_timeout_has_no_end_while_the_run_is_in_use() -> None:
    bed = Bed()
    leases = bed.leases
    assert 890 < (leases.expire_time or 0) - time.time() <= 900

    lease = leases.take(bed.instance, bed.checks)
    assert (leases.in_use, leases.expire_time, leases.idle_at) == (True, None, math.inf)
    with bed.slots.waiting():
        bed.give(lease)
        assert (leases.in_use, leases.expire_time, leases.idle_at) == (True, None, math.inf)

    assert not leases.in_use
    assert 890 < (leases.expire_time or 0) - time.time() <= 900


async def test_the_idle_timeout_begins_at_ready() -> None:
    bed = Bed(idle=0, ready=False)
    over = await begun(bed.leases.over())
    assert (bed.leases.expire_time, over.done()) == (None, False)

    bed.leases.ready()

    await ended(over, "a run that nobody has used was not idle")
    assert bed.leases.ended
    assert (bed.leases.expire_time or 0) <= time.time()


async def test_the_end_of_the_idle_timeout_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    bed = Bed()
    said = bed.leases.expire_time
    for _ in range(1000):
        assert bed.leases.expire_time == said

    bed.leases.use(None)
    assert said is not None
    assert bed.leases.expire_time is not None
    assert bed.leases.expire_time > said
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + 3600)  # somebody has set the clock
    assert bed.leases.expire_time == pytest.approx(said + 3600, abs=10)


async def test_the_end_of_each_use_is_noted() -> None:
    bed = Bed(ready=False)
    assert bed.leases.used_at == math.inf
    for end in (
        bed.leases.ready,
        lambda: bed.leases.use(None),
        lambda: bed.give(bed.leases.take(bed.instance, bed.checks)),
    ):
        await asyncio.sleep(0.001)
        before = asyncio.get_running_loop().time()
        end()
        assert before <= bed.leases.used_at <= asyncio.get_running_loop().time()


async def test_a_run_is_released_each_time_that_it_becomes_unused() -> None:
    bed = Bed()
    first, second = (
        bed.leases.take(bed.instance, bed.checks),
        bed.leases.take(bed.instance, bed.checks),
    )

    bed.give(first)
    assert bed.released == 0
    bed.give(second)
    assert bed.released == 1
    with bed.slots.waiting():
        pass
    assert bed.released == 2


@pytest.mark.parametrize("use", ["lease", "wait"])
async def test_a_run_that_is_in_use_when_its_idle_timeout_ends_is_idle_after_that(
    use: str,
) -> None:
    bed = Bed(idle=0)
    with bed.slots.waiting():
        lease = bed.leases.take(bed.instance, bed.checks)
        over = await begun(bed.leases.over())
        if use == "wait":
            bed.give(lease)
        assert not over.done()
    if use == "lease":
        bed.give(lease)

    await ended(over, "a run that is not used any more was not idle")


async def test_the_idle_timeout_of_a_request_is_in_force_until_the_next_request() -> None:
    bed = Bed()
    over = await begun(bed.leases.over())

    bed.leases.use(3600)
    assert 3590 < (bed.leases.expire_time or 0) - time.time() <= 3600
    bed.leases.use(None)
    assert 890 < (bed.leases.expire_time or 0) - time.time() <= 900
    bed.leases.use(0)
    await ended(over, "a run without an idle timeout was not idle")


async def test_another_entry_is_in_force_for_the_idle_timer_and_for_new_leases() -> None:
    bed = Bed()
    over = await begun(bed.leases.over())
    old = bed.leases.take(bed.instance, bed.checks)
    other = entry(idle_timeout=1800.0)

    bed.leases.replace_entry(other)
    new = bed.leases.take(bed.instance, bed.checks)
    assert old.entry is bed.entry
    assert new.entry is other
    for lease in (old, new):
        bed.give(lease)
    assert 1790 < (bed.leases.expire_time or 0) - time.time() <= 1800

    bed.leases.replace_entry(entry(idle_timeout=0.0))
    await ended(over, "the idle timeout of another entry was not in force")


async def test_a_drain_is_over_when_the_last_lease_is_back() -> None:
    bed = Bed()
    lease = bed.leases.take(bed.instance, bed.checks)
    over = await begun(bed.leases.over())
    bed.leases.end(3600)
    await ended(over, "a run that has to end was not over")
    drained = await begun(bed.leases.drained())
    assert not drained.done()

    bed.give(lease)

    await ended(drained, "a run without leases was not drained")
    await bed.leases.drained()


@pytest.mark.parametrize("drains", [(0, 3600), (3600, 0)])
async def test_a_second_end_can_only_shorten_the_drain(drains: tuple[float, float]) -> None:
    bed = Bed()
    bed.may_leave.set()
    holder = await begun(bed.use())
    bed.leases.end(drains[0])
    drained = asyncio.create_task(bed.leases.drained())
    bed.leases.end(drains[1])

    await ended(drained, "the lease was not cut")
    with pytest.raises(WasCut):
        await holder


async def test_a_holder_that_is_on_the_way_out_is_not_cut_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bed = Bed()
    cuts: list[int] = []
    cut = bed.leases._cut

    def counted() -> None:
        cuts.append(bed.leases.count)
        cut()

    monkeypatch.setattr(bed.leases, "_cut", counted)
    holder = await begun(bed.use())
    bed.leases.end(0)
    drained = await begun(bed.leases.drained())
    for _ in range(10):
        await asyncio.sleep(0)
    assert cuts == [1]

    bed.leases.end(0)
    for _ in range(10):
        await asyncio.sleep(0)
    assert not drained.done()  # the holder has not left
    assert cuts == [1, 1]
    bed.may_leave.set()

    await ended(drained, "the holder has left, and the run was not drained")
    assert drained.exception() is None
    with pytest.raises(WasCut):
        await holder
