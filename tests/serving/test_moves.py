"""A runtime that is found while the service runs: who stays, who moves, who is started."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from inference_service.capacity.claims import MEMORY, GpuNeed
from inference_service.capacity.gpus import Gpu
from inference_service.capacity.nodes import LOCAL, Node
from inference_service.catalog import Catalog, ModelSpec
from inference_service.errors import (
    LaunchError,
    ModelUnusable,
    ShuttingDown,
    StillUnusable,
    Unlaunchable,
)
from inference_service.key import Key
from inference_service.lifecycle import State
from inference_service.runtimes.command import Command
from inference_service.serving.entry import Entry
from inference_service.serving.models import Models
from inference_service.serving.start_times import StartTimes
from tests.build import generate, machine, reached, timing
from tests.fakes import FakeEngine, FakeRuntime, spec
from tests.waiting import SLOWLY, WHOLE, within

GPU = Gpu("gpu-0", 10**10, 10**10)


class Nowhere(FakeRuntime):
    """A runtime that can run no model, as that of processes for an engine that is an image."""

    name = "nowhere"

    def __init__(self) -> None:
        super().__init__()
        self.refusal = Unlaunchable("containers only")


class Found(FakeRuntime):
    """A Docker that is found, with a GPU, and with engines of an earlier service."""

    name = "docker"
    nodes: Sequence[Node] = (Node(LOCAL, 10**9, (GPU,)),)

    def __init__(self) -> None:
        super().__init__()
        self.left: dict[Key, tuple[str, ...]] = {}
        self.fails: Exception | None = None
        self.kept: list[str] = []

    async def survivors(self, commands: Mapping[str, Command]) -> dict[Key, tuple[str, ...]]:
        if self.fails is not None:
            raise self.fails
        self.kept = [*commands]
        return {key: ids for key, ids in self.left.items() if key.model_id in commands}


class Here(FakeRuntime):
    name = "process"


@dataclass
class House:
    """A service with models that run here, and `lost` ones that only Docker can run."""

    here: Here = field(default_factory=Here)
    nowhere: Nowhere = field(default_factory=Nowhere)
    docker: Found = field(default_factory=Found)
    engine: FakeEngine = field(default_factory=FakeEngine)
    looks: int = 0
    answers: bool = False  # the next look finds Docker
    preload: str = ""

    def __post_init__(self) -> None:
        specs = [spec("tiny"), spec("small"), spec("lost")]
        catalog = Catalog([s.model_copy(update={"preload": s.id == self.preload}) for s in specs])
        self.admission = machine(10**9)
        times = timing(back_off=1000.0)
        shared = (self.admission, StartTimes(), lambda _: None, 1)
        self.models = Models(catalog, self.before, times, *shared, self.look)

    def before(self, spec: ModelSpec) -> Entry:
        runtime = self.nowhere if spec.id == "lost" else self.here
        return Entry.of(spec, runtime, self.engine)

    def after(self, spec: ModelSpec) -> Entry:
        return Entry.of(spec, self.docker, self.engine)

    async def look(self) -> None:
        self.looks += 1
        if self.answers:
            await self.find()

    async def find(self) -> None:
        await self.models.take_in(self.docker, self.after)


@asynccontextmanager
async def house(preload: str = "") -> AsyncGenerator[House]:
    house = House(preload=preload)
    async with within(WHOLE, "not every lease, start and stop came"):
        yield house
    async with within(SLOWLY, "the models were not closed"):
        await house.models.close(0)


async def test_a_model_that_runs_stays_and_its_next_start_is_elsewhere() -> None:
    async with house() as it:
        tiny = it.models.find("tiny")
        await generate(tiny)
        before = it.here.running["tgi-tiny"]
        await it.find()

        assert (tiny.view().runtime, tiny.entry.runtime) == ("process", it.here)
        await generate(tiny)
        assert it.here.running == {"tgi-tiny": before}
        assert it.docker.running == {}

        await tiny.stop()
        assert tiny.view().runtime == "docker"
        await generate(tiny)
        assert (it.here.started, it.docker.started) == (["tgi-tiny"], ["tgi-tiny"])
        assert tiny.view().runtime == "docker"


async def test_a_model_that_does_not_run_is_shown_where_its_next_start_is() -> None:
    async with house() as it:
        await it.find()
        assert [model.view().runtime for model in it.models] == ["docker"] * 3


async def test_a_start_that_needs_it_has_it_looked_for_first() -> None:
    async with house() as it:
        lost = it.models.find("lost")
        it.answers = True
        assert await generate(lost)
        await generate(it.models.find("tiny"))

    assert it.looks == 1
    assert it.docker.started == ["tgi-lost", "tgi-tiny"]


async def test_other_starts_look_for_nothing() -> None:
    async with house() as it:
        for _ in range(3):
            await generate(it.models.find("tiny"))
    assert it.looks == 0


async def test_a_failure_for_lack_of_it_is_forgiven_and_others_are_not() -> None:
    async with house() as it:
        lost, tiny = it.models.find("lost"), it.models.find("tiny")
        it.here.refusal = Unlaunchable("the same everywhere")
        for model in (lost, tiny):
            with pytest.raises(ModelUnusable):
                await generate(model)
            with pytest.raises(StillUnusable):
                await generate(model)
        await it.find()

        assert await generate(lost)
        assert await generate(tiny)  # the next runtime may well run it
        assert it.docker.started == ["tgi-lost", "tgi-tiny"]


async def test_its_memory_and_gpus_count_from_then_on() -> None:
    async with house() as it:
        it.engine.gpu_needs = {"small": GpuNeed(10**9)}
        await it.find()
        await generate(it.models.find("small"))

        assert it.admission.gpu_amounts(Key("small")) == {"gpu-0": 10**9}
        assert it.admission.free("gpu-0") == 9 * 10**9
        assert it.admission.free(MEMORY) < 10**9


async def test_engines_of_an_earlier_service_are_taken_over_unless_their_model_runs() -> None:
    async with house() as it:
        it.docker.left = {Key("tiny"): (), Key("small"): ()}
        await generate(it.models.find("tiny"))
        await it.find()
        await it.docker.engine("tgi-small")
        await reached(it.models.find("small"), State.READY)

        assert it.docker.kept == ["small", "lost"]
        assert it.docker.started == ["tgi-small"]
        assert it.models.find("tiny").view().runtime == "process"


async def test_what_was_to_start_with_the_service_and_could_not_starts() -> None:
    async with house(preload="lost") as it:
        it.models.preload()
        await reached(it.models.find("lost"), State.FAILED)
        await it.find()
        await reached(it.models.find("lost"), State.READY)
    assert it.docker.started == ["tgi-lost"]


async def test_a_reload_places_models_with_it() -> None:
    async with house() as it:
        await generate(it.models.find("tiny"))
        await it.find()
        await it.models.reload(Catalog([*map(spec, ("tiny", "small", "lost", "fresh"))]))

        await generate(it.models.find("fresh"))
        assert it.docker.started == ["tgi-fresh"]
        assert it.here.running.keys() == {"tgi-tiny"}


async def test_a_runtime_that_goes_away_at_once_changes_nothing() -> None:
    async with house() as it:
        it.docker.fails = LaunchError("gone")
        with pytest.raises(LaunchError):
            await it.find()
        assert [model.view().runtime for model in it.models] == ["process", "process", "nowhere"]
        await it.models.close(0)
        it.docker.fails = None
        with pytest.raises(ShuttingDown):
            await it.find()
        assert [model.view().runtime for model in it.models] == ["process", "process", "nowhere"]
