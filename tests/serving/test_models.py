"""All models of a catalog: by id, as changes, over a reload, at a close."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

import pytest

from inference_service.capacity.claims import MEMORY, GpuNeed
from inference_service.capacity.gpus import Gpu
from inference_service.catalog import Catalog, ModelSpec
from inference_service.errors import ModelNotFound, ModelStopped, ShuttingDown
from inference_service.key import Key
from inference_service.lifecycle import State
from inference_service.runtimes.command import Command
from inference_service.serving.entry import Entry
from inference_service.serving.models import Models, Reload, Shown
from inference_service.serving.start_times import StartTimes
from inference_service.serving.timing import Timing
from inference_service.serving.view import Removed, View
from tests.build import QUICK, generate, idle_in, machine, reached, timing
from tests.fakes import FakeEngine, FakeRuntime, spec
from tests.waiting import SLOWLY, WHOLE, within

IDS = ["tiny", "small", "large"]


@dataclass
class House:
    """Models over fakes, and the changes that were shown."""

    runtime: FakeRuntime = field(default_factory=FakeRuntime)
    engine: FakeEngine = field(default_factory=FakeEngine)
    placed: list[str] = field(default_factory=list)
    shown: list[tuple[str, State]] = field(default_factory=list)
    preload: str = ""
    timing: Timing = QUICK

    def __post_init__(self) -> None:
        specs = [spec(model_id) for model_id in IDS]
        catalog = Catalog([s.model_copy(update={"preload": s.id == self.preload}) for s in specs])
        self.admission = machine(10**9)
        self.models = Models(
            catalog, self.place, self.timing, self.admission, StartTimes(), self.note
        )

    def note(self, shown: Shown) -> None:
        if not isinstance(shown, Removed):
            self.shown.append((shown.id, shown.status.state))

    def place(self, spec: ModelSpec) -> Entry:
        self.placed.append(spec.id)
        return Entry.of(spec, self.runtime, self.engine)

    async def generate(self, model_id: str) -> str:
        return await generate(self.models.find(model_id), count=2)

    async def until(self, model_id: str, state: State) -> None:
        await reached(self.models.find(model_id), state)


@asynccontextmanager
async def house(preload: str = "", timing: Timing = QUICK) -> AsyncGenerator[House]:
    house = House(preload=preload, timing=timing)
    try:
        async with within(WHOLE, "not every lease, start, stop and change came"):
            yield house
    finally:
        for gate in (house.runtime.may_leave, house.engine.may_speak):
            gate.set()
        async with within(SLOWLY, "the models were not closed"):
            await house.models.close(0)
    assert house.runtime.running == {}


async def test_every_model_is_placed_once_and_listed_in_the_catalogs_order() -> None:
    async with house() as it:
        assert it.placed == IDS
        assert [model.id for model in [*it.models]] == IDS
        assert it.runtime.started == []


async def test_a_model_is_found_by_its_id_and_another_is_not() -> None:
    async with house() as it:
        assert it.models.find("small") is [*it.models][1]
        with pytest.raises(ModelNotFound, match="did you mean 'small'"):
            it.models.find("smal")


async def test_a_lease_starts_its_own_model_alone() -> None:
    async with house() as it:
        assert await it.generate("small") == " word word"

        assert it.runtime.started == ["tgi-small"]
        assert it.models.find("tiny").status.state is State.STOPPED


async def test_models_run_side_by_side() -> None:
    async with house() as it:
        texts = await asyncio.gather(*(it.generate(model_id) for model_id in IDS * 10))

        assert texts == [" word word"] * 30
        assert sorted(it.runtime.started) == sorted(f"tgi-{model_id}" for model_id in IDS)


async def test_the_models_that_the_catalog_wants_are_started_with_the_service() -> None:
    async with house(preload="small") as it:
        it.models.preload()

        assert it.models.find("small").status.state is State.STARTING
        await it.until("small", State.READY)
        assert it.runtime.started == ["tgi-small"]


async def test_a_lease_can_set_the_idle_timeout() -> None:
    async with house() as it:
        async with it.models.find("tiny").lease(idle_timeout=3600):
            pass

        assert 3590 < idle_in(it.models.find("tiny")) <= 3600


async def test_every_change_is_shown() -> None:
    async with house() as it:
        await it.generate("tiny")
        await it.models.find("tiny").stop()

        states = list(dict.fromkeys(state for _, state in it.shown))
        assert states == [State.STARTING, State.READY, State.STOPPING, State.STOPPED]
        assert {model_id for model_id, _ in it.shown} == {"tiny"}


async def test_close_ends_all_models_at_the_same_time() -> None:
    async with house() as it:
        await asyncio.gather(*(it.generate(model_id) for model_id in IDS))
        it.runtime.may_leave.clear()

        closing = asyncio.create_task(it.models.close(30))
        for model_id in IDS:
            await it.until(model_id, State.STOPPING)
        assert not closing.done()
        it.runtime.may_leave.set()
        await closing

        assert it.runtime.running == {}


async def test_close_refuses_callers_and_drains_those_that_are_there() -> None:
    async with house() as it:
        it.engine.may_speak.clear()
        caller = asyncio.create_task(it.generate("tiny"))
        await it.engine.generates()

        closing = asyncio.create_task(it.models.close(30))
        await it.until("tiny", State.STOPPING)
        async with within(5, "callers were not refused before the end of the drain"):
            late = [it.generate(model_id) for model_id in IDS]
            answers = await asyncio.gather(*late, return_exceptions=True)
        it.engine.may_speak.set()

        assert [type(answer) for answer in answers] == [ShuttingDown] * 3

        assert await caller == " word word"
        await closing


async def test_a_second_close_cuts_what_the_first_one_drains() -> None:
    async with house() as it:
        it.engine.may_speak.clear()
        caller = asyncio.create_task(it.generate("tiny"))
        await it.engine.generates()
        patient = asyncio.create_task(it.models.close(3600))
        await it.until("tiny", State.STOPPING)

        await it.models.close(0)

        await patient
        with pytest.raises((ModelStopped, ShuttingDown)):
            await caller


async def test_close_without_any_model_running_returns_at_once() -> None:
    async with house() as it:
        await it.models.close(3600)
        await it.models.close(3600)

        assert it.shown == []


async def test_an_unknown_model_is_unknown_after_close_too() -> None:
    async with house() as it:
        await it.models.close(0)

        with pytest.raises(ModelNotFound):
            it.models.find("nothing")


async def test_a_preload_that_can_never_fit_does_not_stop_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    specs = [spec("huge", memory="2GB"), spec("tiny")]
    catalog = Catalog([each.model_copy(update={"preload": True}) for each in specs])
    runtime = FakeRuntime()
    models = Models(
        catalog,
        lambda spec: Entry.of(spec, runtime, FakeEngine()),
        QUICK,
        machine(10**9),
        StartTimes(),
    )

    models.preload()

    await runtime.engine("tgi-tiny")
    assert "huge is not started with the service: huge needs 2.0 GB" in caplog.text
    await models.close(0)


def entry(model_id: str, **changes: object) -> ModelSpec:
    return spec(model_id).model_copy(update=changes)


def larger(model_id: str) -> ModelSpec:
    """Return an entry that needs another engine than `spec`."""
    return spec(model_id, memory="65MiB")


async def watched(it: House, count: int) -> list[tuple[str, State | None]]:
    """Return the next changes after the present revision."""
    seen: list[tuple[str, State | None]] = []
    async with aclosing(it.models.watch(0)) as changes:
        async for change in changes:
            if change.item is None:
                break
        async for change in changes:
            assert change.item is not None
            match change.item:
                case Removed(id):
                    seen.append((id, None))
                case view:
                    seen.append((view.id, view.status.state))
            if len(seen) == count:
                return seen
    raise AssertionError("the watch has ended")


async def changes_after(it: House, revision: int) -> list[View]:
    """Return all changes after a revision, read now."""
    last = await snapshot(it)
    seen: list[View] = []
    async with aclosing(it.models.watch(revision)) as changes:
        async for change in changes:
            assert isinstance(change.item, View)
            seen.append(change.item)
            if change.revision == last:
                return seen
    raise AssertionError("the watch has ended")


async def snapshot(it: House) -> int:
    """Return the revision of a new snapshot."""
    async with aclosing(it.models.watch(0)) as changes:
        async for change in changes:
            if change.item is None:
                return change.revision
    raise AssertionError("the snapshot has no end")


async def test_a_slow_watcher_sees_models_as_they_were() -> None:
    async with house(timing=timing(idle=60)) as it:
        revision = await snapshot(it)
        await it.models.find("tiny").start()
        ready = it.models.find("tiny").view()
        reloaded = entry("tiny", pinned=True, context_length=64, hf_name="another/name")
        await it.models.reload(Catalog([reloaded, spec("small"), spec("large")]))
        await it.models.find("tiny").stop()

        seen = [view for view in await changes_after(it, revision) if view.id == "tiny"]

        starting = [view for view in seen if view.status.state is State.STARTING]
        assert len(starting) >= 3  # begun, image, container
        assert {view.expire_time for view in starting} == {None}
        assert {view.pinned for view in starting} == {False}
        [first, second] = [view for view in seen if view.status.state is State.READY]
        assert (first.context_length, first.hf_name, first.pinned) == (128, "some/tiny", False)
        assert (first.status, first.active_count) == (ready.status, 0)
        assert (second.context_length, second.hf_name) == (64, "another/name")
        assert (second.pinned, second.expire_time) == (True, None)
        assert seen[-1].status.state is State.STOPPED
        assert [view.seen for view in seen] == sorted(view.seen for view in seen)


async def test_a_watcher_that_resumes_sees_the_address_of_each_run() -> None:
    async with house() as it:
        revision = await snapshot(it)
        await it.models.find("tiny").start()
        await it.models.find("tiny").stop()
        await it.models.find("small").start()  # on the port of the first
        await it.models.find("tiny").start()

        views = await changes_after(it, revision)

        ports = [(v.id, v.status.port) for v in views if v.status.state is State.READY]
        assert ports == [("tiny", 8080), ("small", 8080), ("tiny", 8081)]
        assert views[0].status.port == 0


async def test_a_reload_does_not_touch_a_model_that_has_not_changed() -> None:
    async with house() as it:
        await it.generate("tiny")
        models = [*it.models]

        assert await it.models.reload(Catalog([spec(i) for i in IDS])) == Reload((), (), (), ())
        assert [*it.models] == models
        assert it.models.find("tiny").status.state is State.READY


async def test_a_reload_adds_changes_and_removes() -> None:
    async with house() as it:
        watching = asyncio.create_task(watched(it, 4))
        await asyncio.sleep(0)
        new = Catalog([spec("tiny"), entry("small", idle_timeout=5.0), spec("new")])

        assert await it.models.reload(new) == Reload(("new",), ("small",), (), ("large",))
        assert [model.id for model in [*it.models]] == ["tiny", "small", "new"]
        with pytest.raises(ModelNotFound):
            it.models.find("large")
        assert await it.generate("new") == " word word"
        assert await watching == [
            ("small", State.STOPPED),
            ("new", State.STOPPED),
            ("large", State.STOPPED),
            ("large", None),
        ]


async def test_an_entry_with_the_same_launch_is_in_force_at_once() -> None:
    async with house() as it:
        await it.generate("tiny")
        tiny = it.models.find("tiny")
        kept = entry("tiny", idle_timeout=5.0, context_length=64)

        assert (await it.models.reload(Catalog([kept]))).changed == ("tiny",)
        assert tiny.status.state is State.READY
        assert idle_in(tiny) <= 5
        assert tiny.entry.spec == kept
        await it.models.reload(Catalog([entry("tiny", pinned=True)]))
        assert idle_in(tiny) == math.inf
        assert it.runtime.started == ["tgi-tiny"]


async def test_a_model_whose_engine_must_change_is_drained_and_started_again() -> None:
    async with house() as it:
        it.engine.may_speak.clear()
        running = asyncio.create_task(it.generate("tiny"))
        await it.engine.generates()

        assert (await it.models.reload(Catalog([larger("tiny")]))).restarted == ("tiny",)
        await it.until("tiny", State.STOPPING)
        waiting = asyncio.create_task(it.generate("tiny"))
        await asyncio.sleep(0)
        it.engine.may_speak.set()

        assert await running == " word word"
        assert await waiting == " word word"
        assert it.runtime.started == ["tgi-tiny"] * 2
        assert it.models.find("tiny").view().memory_bytes == 65 * 2**20
        assert it.admission.free(MEMORY) == 10**9 - 65 * 2**20


async def test_callers_of_a_model_that_starts_wait_through_a_reload() -> None:
    async with house() as it:
        it.engine.may_answer.clear()
        waiting = asyncio.create_task(it.generate("tiny"))
        await it.runtime.engine()

        assert (await it.models.reload(Catalog([larger("tiny")]))).restarted == ("tiny",)
        it.engine.may_answer.set()

        assert await waiting == " word word"
        assert it.runtime.started == ["tgi-tiny"] * 2


async def test_the_last_of_two_reloads_during_a_drain_counts() -> None:
    async with house() as it:
        it.engine.may_speak.clear()
        running = asyncio.create_task(it.generate("tiny"))
        await it.engine.generates()
        await it.models.reload(Catalog([larger("tiny")]))
        assert (await it.models.reload(Catalog([spec("tiny")]))).restarted == ("tiny",)
        it.engine.may_speak.set()

        assert await running == " word word"
        await it.until("tiny", State.READY)
        assert it.models.find("tiny").entry.spec == spec("tiny")
        assert it.runtime.started == ["tgi-tiny"] * 2


async def test_a_stop_during_the_drain_of_a_reload_begins_no_other_run() -> None:
    async with house() as it:
        await it.generate("tiny")
        it.runtime.may_leave.clear()
        await it.models.reload(Catalog([larger("tiny")]))
        stopping = asyncio.create_task(it.models.find("tiny").stop())
        await it.until("tiny", State.STOPPING)
        it.runtime.may_leave.set()
        await stopping

        assert it.models.find("tiny").status.state is State.STOPPED
        assert it.models.find("tiny").entry.spec == larger("tiny")
        assert it.runtime.started == ["tgi-tiny"]


async def test_a_reload_does_not_shorten_the_drain_of_a_stop() -> None:
    async with house(timing=timing(drain=0.01)) as it:
        it.engine.may_speak.clear()
        running = asyncio.create_task(it.generate("tiny"))
        await it.engine.generates()
        stopping = asyncio.create_task(it.models.find("tiny").stop(3600))
        await it.until("tiny", State.STOPPING)

        assert (await it.models.reload(Catalog([larger("tiny")]))).restarted == ()
        await asyncio.sleep(0.05)
        it.engine.may_speak.set()
        assert await running == " word word"
        await stopping
        assert it.models.find("tiny").entry.spec == larger("tiny")


async def test_a_model_that_is_removed_from_the_catalog_drains_and_is_gone() -> None:
    async with house() as it:
        it.engine.may_speak.clear()
        running = asyncio.create_task(it.generate("tiny"))
        await it.engine.generates()
        tiny = it.models.find("tiny")
        watching = asyncio.create_task(watched(it, 2))
        await asyncio.sleep(0)

        assert (await it.models.reload(Catalog([spec("small")]))).removed == ("tiny", "large")
        with pytest.raises(ModelNotFound, match="was removed from the catalog"):
            async with tiny.lease():
                pass
        it.engine.may_speak.set()
        assert await running == " word word"
        await watching
        while not tiny.gone:
            await tiny.changes.next()
        assert it.runtime.running == {}
        assert await it.generate("small") == " word word"


async def test_a_model_that_comes_back_while_it_drains_is_served_again() -> None:
    async with house() as it:
        it.engine.may_speak.clear()
        running = asyncio.create_task(it.generate("tiny"))
        await it.engine.generates()
        await it.models.reload(Catalog([spec("small")]))

        assert (await it.models.reload(Catalog([larger("tiny")]))).added == ("tiny",)
        waiting = asyncio.create_task(it.generate("tiny"))
        await it.until("tiny", State.STOPPING)
        it.engine.may_speak.set()
        assert await running == " word word"
        assert await waiting == " word word"
        assert it.models.find("tiny").entry.spec == larger("tiny")


async def test_a_reload_starts_a_new_model_with_preload() -> None:
    async with house() as it:
        await it.models.reload(Catalog([entry("new", preload=True)]))
        await it.until("new", State.READY)


async def test_requests_are_served_between_the_models_of_a_long_reload() -> None:
    many = [entry(f"model-{number}", preload=False) for number in range(500)]
    async with house() as it:
        await it.generate("tiny")
        reload = asyncio.create_task(it.models.reload(Catalog([spec("tiny"), *many])))
        texts = 0
        while not reload.done():
            await it.generate("tiny")
            await asyncio.sleep(0)  # the fakes wait for nothing
            texts += 1

        assert texts > 1
        assert len(reload.result().added) == 500
        assert it.models.find("model-499").status.state is State.STOPPED


async def test_a_reload_starts_nothing_in_a_service_that_ends() -> None:
    new = [entry(f"model-{number}", preload=True) for number in range(200)]
    async with house() as it:
        reload = asyncio.create_task(it.models.reload(Catalog(new)))
        await asyncio.sleep(0)
        await it.models.close(0)

        with pytest.raises(ShuttingDown):
            await reload
        with pytest.raises(ShuttingDown):
            await it.models.reload(Catalog(new))
        assert it.runtime.running == {}


async def test_engines_that_are_adopted_keep_their_gpus() -> None:
    class Survived(FakeRuntime):
        async def survivors(self, commands: Mapping[str, Command]) -> dict[Key, tuple[str, ...]]:
            return {Key("tiny"): ("gpu-1",)}

    runtime, engine = Survived(), FakeEngine()
    engine.gpu_needs = {"tiny": GpuNeed(10**9)}
    gpus = [Gpu(f"gpu-{n}", 10**10, 10**10) for n in range(2)]
    admission = machine(10**9, gpus)
    catalog = Catalog([spec("tiny")])
    models = Models(
        catalog, lambda spec: Entry.of(spec, runtime, engine), QUICK, admission, StartTimes()
    )

    await models.adopt()
    await runtime.engine("tgi-tiny")

    assert admission.gpu_amounts(Key("tiny")) == {"gpu-1": 10**9}
    await models.close(0)
