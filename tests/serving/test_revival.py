"""The starts of models that nobody calls, after a failure; on a manual clock."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest

from inference_service.catalog import Catalog, ModelSpec
from inference_service.errors import InsufficientMemory, LaunchError, NotRunning, Unlaunchable
from inference_service.lifecycle import State
from inference_service.runtimes.base import Exit
from inference_service.serving.entry import Entry
from inference_service.serving.models import Models, Shown
from inference_service.serving.start_times import StartTimes
from inference_service.serving.view import View
from tests.build import machine, timing
from tests.fakes import FakeEngine, FakeRuntime, spec
from tests.serving.manual_loop import on_manual_time

Steps = Callable[["House"], Awaitable[None]]

TIMING = timing(poll=1.0, back_off=1.0, back_off_longest=60.0)


def kept(**flags: object) -> ModelSpec:
    """Make the entry of a model with these flags."""
    return spec().model_copy(update=flags)


class House:
    """The models of one entry, and the times at which its engines were started."""

    def __init__(self, entry: ModelSpec, memory: int = 10**9) -> None:
        self.runtime, self.engine = FakeRuntime(), FakeEngine()
        self.admission = machine(memory)
        self.models = Models(
            Catalog([entry, spec("other")]),
            self.place,
            TIMING,
            self.admission,
            StartTimes(),
            self._note,
        )
        self.starts: list[float] = []
        self.refusals: list[LaunchError] = []  # of the next starts
        self._began = self._now()
        self._last = State.STOPPED

    def place(self, entry: ModelSpec) -> Entry:
        return Entry.of(entry, self.runtime, self.engine)

    def is_in(self, state: State) -> bool:
        return self.models.find("tiny").status.state is state

    def crash(self) -> None:
        self.runtime.running["tgi-tiny"].die(Exit(1))

    async def close(self) -> None:
        await self.models.close(0)
        assert not self.runtime.running

    def _note(self, shown: Shown) -> None:
        if shown.id == "tiny" and isinstance(shown, View):
            state = shown.status.state
            if state is State.STARTING is not self._last:
                self.starts.append(round(self._now() - self._began))
                self.runtime.refusal = self.refusals.pop() if self.refusals else None
            self._last = state

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def small() -> ModelSpec:
    """Make the entry of a model that fits seven megabytes."""
    return spec(memory="6MiB").model_copy(update={"preload": True})


def drive(steps: Steps, entry: ModelSpec, memory: int = 10**9) -> None:
    async def whole() -> None:
        house = House(entry, memory)
        await steps(house)
        await house.close()

    on_manual_time(whole())


@pytest.mark.parametrize("flag", ["pinned", "preload"])
def test_a_crash_is_followed_by_a_start_after_the_back_off(flag: str) -> None:
    async def steps(house: House) -> None:
        await house.models.find("tiny").start()
        house.crash()
        await asyncio.sleep(0.9)
        assert house.is_in(State.FAILED)
        await asyncio.sleep(1)
        assert house.is_in(State.READY)
        assert house.starts == [0, 1]

    drive(steps, kept(**{flag: True}))


def test_another_model_waits_for_its_next_call() -> None:
    async def steps(house: House) -> None:
        await house.models.find("tiny").start()
        house.crash()
        await asyncio.sleep(600)
        assert house.is_in(State.FAILED)

    drive(steps, kept())


def test_a_boot_that_fails_is_repeated_until_it_succeeds() -> None:
    async def steps(house: House) -> None:
        house.refusals = [LaunchError("no")] * 4
        house.models.preload()
        await asyncio.sleep(60)
        assert house.is_in(State.READY)
        assert house.starts == [0, 1, 3, 7, 15]

    drive(steps, kept(preload=True))


def test_what_no_retry_mends_is_tried_at_the_longest_back_off() -> None:
    async def steps(house: House) -> None:
        house.refusals = [Unlaunchable("no such image")]
        house.models.preload()
        await asyncio.sleep(59)
        assert house.is_in(State.FAILED)
        await asyncio.sleep(2)
        assert house.is_in(State.READY)
        assert house.starts == [0, 60]

    drive(steps, kept(preload=True))


async def stop_it(house: House) -> None:
    with pytest.raises(NotRunning):
        await house.models.find("tiny").stop()


async def remove_it(house: House) -> None:
    await house.models.reload(Catalog([]))


async def unpin_it(house: House) -> None:
    await house.models.reload(Catalog([kept(), spec("other")]))


async def close_it(house: House) -> None:
    await house.close()


@pytest.mark.parametrize("ends", [stop_it, remove_it, unpin_it, close_it])
def test_it_is_given_up_by(ends: Steps) -> None:
    async def steps(house: House) -> None:
        await house.models.find("tiny").start()
        house.crash()
        await asyncio.sleep(0.5)
        await ends(house)
        await asyncio.sleep(600)
        assert house.starts == [0]

    drive(steps, kept(pinned=True))


def test_what_was_stopped_stays_stopped() -> None:
    async def steps(house: House) -> None:
        model = house.models.find("tiny")
        await model.start()
        await model.stop()
        await asyncio.sleep(600)
        assert house.is_in(State.STOPPED)
        house.refusals = [LaunchError("no")]
        model.begin()
        await asyncio.sleep(0.5)
        await stop_it(house)
        await asyncio.sleep(600)
        assert house.starts == [0, 600]

    drive(steps, kept(pinned=True, preload=True))


def test_a_removal_that_fails_at_a_stop_begins_nothing() -> None:
    async def steps(house: House) -> None:
        model = house.models.find("tiny")
        await model.start()
        house.runtime.stop_refusal = LaunchError("busy")
        await asyncio.wait([asyncio.ensure_future(model.stop())])
        await asyncio.sleep(600)
        house.runtime.removes_at_last()
        assert house.starts == [0]

    drive(steps, kept(pinned=True))


def test_a_changed_entry_is_tried_at_once() -> None:
    async def steps(house: House) -> None:
        house.refusals = [Unlaunchable("no such image")]
        house.models.preload()
        await asyncio.sleep(5)
        await house.models.reload(Catalog([kept(preload=True, idle_timeout=7), spec("other")]))
        await asyncio.sleep(1)
        assert house.starts == [0, 5]

    drive(steps, kept(preload=True))


def test_what_can_never_fit_is_asked_for_each_minute_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def steps(house: House) -> None:
        house.models.preload()
        await asyncio.sleep(600)
        assert house.is_in(State.STOPPED)
        with pytest.raises(InsufficientMemory):
            house.models.find("tiny").begin()
        await house.models.reload(Catalog([small(), spec("other")]))
        assert house.is_in(State.STARTING)

    with caplog.at_level(logging.ERROR):
        drive(steps, kept(preload=True), memory=7 * 10**6)
    assert len(caplog.records) == 1


def test_a_start_that_waits_for_memory_is_one_start() -> None:
    async def steps(house: House) -> None:
        async with house.models.find("other").lease():
            house.models.preload()
            await asyncio.sleep(500)
            assert house.starts == [0]
            assert house.is_in(State.STARTING)
        await asyncio.sleep(2)
        assert house.is_in(State.READY)

    drive(steps, kept(preload=True), memory=100 * 2**20)
