"""Admission: the models that start, that make room, and that wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import pytest

from inference_service.capacity.claims import MEMORY, GpuNeed, GpuShare, Resident, Thing, evictions
from inference_service.capacity.gpus import Gpu
from inference_service.capacity.nodes import LOCAL
from inference_service.errors import InsufficientMemory, StopFailed
from inference_service.key import Key
from inference_service.lifecycle import Phase, State
from inference_service.serving.model import Model
from inference_service.serving.timing import Timing
from tests.build import machine, timing
from tests.build import model as make_model
from tests.fakes import FakeEngine, FakeRuntime, spec
from tests.waiting import SLOWLY, WHOLE, within

MIB = 2**20
RAM = Thing(LOCAL, MEMORY)


def resident(name: str, size: int, used_at: float, evictable: bool = True) -> Resident:
    return Resident(Key(name), {RAM: size}, evictable, used_at)


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
        pytest.param(7, [resident("a", 1, 1), resident("b", 6, 2)], ("b",), id="none without need"),
    ],
)
def test_evictions(need: int, residents: list[Resident], expected: tuple[str, ...] | None) -> None:
    chosen = evictions({RAM: need}, {RAM: 10}, residents)

    assert chosen == (None if expected is None else tuple(map(Key, expected)))


class House:
    """Models of 40, 40, 80 and 200 MiB on a machine of 100 MiB."""

    def __init__(self, times: Timing) -> None:
        self.runtime, self.engine = FakeRuntime(), FakeEngine()
        self.admission = machine(100 * MIB)
        self.small, self.other, self.large, self.huge = (
            make_model(spec(name, memory=memory), self.runtime, self.engine, times, self.admission)
            for name, memory in (
                ("small", "40MiB"),
                ("other", "40MiB"),
                ("large", "80MiB"),
                ("huge", "200MiB"),
            )
        )


@asynccontextmanager
async def house(times: Timing | None = None) -> AsyncGenerator[House]:
    built = House(times or timing())
    async with within(WHOLE, "not every start and stop of a model came to an end"):
        yield built
        for model in (built.small, built.other, built.large, built.huge):
            await model.close(0)
    assert built.runtime.running == {}
    assert built.admission.free(MEMORY) == 100 * MIB


async def waits(model: Model) -> None:
    """Return as soon as the model waits for memory or for a GPU."""
    async with within(SLOWLY, f"{model.id} did not wait for a claim"):
        while not (model.status.progress and model.status.progress.phase is Phase.WAITING):
            await model.changes.next()


async def test_models_that_fit_run_side_by_side() -> None:
    async with house() as h:
        await h.small.start()
        await h.other.start()

        assert set(h.runtime.running) == {"tgi-small", "tgi-other"}
        assert h.admission.free(MEMORY) == 20 * MIB


async def test_an_engine_keeps_its_claim_until_it_is_removed() -> None:
    async with house() as h:
        await h.small.start()
        h.runtime.stop_refusal = StopFailed("tiny", "tgi-tiny", "it will not go")
        with pytest.raises(StopFailed):
            await h.small.stop()
        assert h.admission.free(MEMORY) == 60 * MIB
        starting = asyncio.create_task(h.large.start())
        await waits(h.large)
        assert h.large.status.progress is not None
        assert h.large.status.progress.message == "waits for memory that small use"

        h.runtime.removes_at_last()
        await starting
        assert h.admission.free(MEMORY) == 20 * MIB


async def test_a_model_whose_engine_could_not_be_removed_starts_again_in_its_claim() -> None:
    async with house(timing(back_off=0)) as h:
        await h.large.start()
        h.runtime.stop_refusal = StopFailed("tiny", "tgi-tiny", "it will not go")
        with pytest.raises(StopFailed):
            await h.large.stop()
        h.runtime.running.clear()  # somebody else removes the engine

        await h.large.start()
        assert h.admission.free(MEMORY) == 20 * MIB
        await h.large.stop()
        assert h.admission.free(MEMORY) == 100 * MIB


async def test_the_least_recently_used_model_makes_room() -> None:
    async with house() as h:
        third = make_model(
            spec("third", memory="40MiB"),
            h.runtime,
            h.engine,
            admission=h.admission,
        )
        await h.small.start()
        await h.other.start()
        async with h.small.lease():
            pass

        assert third.quote().plan.evicted == (Key("other"),)
        await third.start()

        assert set(h.runtime.running) == {"tgi-small", "tgi-third"}
        assert h.other.status.state is State.STOPPED
        await third.close(0)


async def test_a_model_in_use_is_waited_for_and_never_evicted() -> None:
    async with house() as h:
        async with h.small.lease():
            assert h.large.quote().plan.must_wait
            start = asyncio.create_task(h.large.start())
            await waits(h.large)
            assert h.large.status.progress is not None
            assert h.large.status.progress.message == "waits for memory that small use"
            assert h.large.status.progress.queue_position == 1
            assert "tgi-small" in h.runtime.running

        await start
        assert set(h.runtime.running) == {"tgi-large"}


async def test_a_small_model_does_not_overtake_a_large_one_that_waits() -> None:
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


async def test_a_model_that_can_never_fit_is_refused_at_once_and_each_time() -> None:
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


async def test_a_model_is_not_evicted_before_its_minimum_residency() -> None:
    async with house(timing(residency=0.3)) as h:
        await h.small.start()
        begun = asyncio.get_running_loop().time()

        await h.large.start()

        assert asyncio.get_running_loop().time() - begun >= 0.29
        assert set(h.runtime.running) == {"tgi-large"}


async def test_a_pinned_model_is_not_evicted() -> None:
    async with house() as h:
        pinned = make_model(
            spec("pinned", memory="40MiB").model_copy(update={"pinned": True}),
            h.runtime,
            h.engine,
            admission=h.admission,
        )
        await pinned.start()

        assert h.large.quote().plan.must_wait
        await pinned.stop()


async def test_a_failed_start_gives_its_claim_back() -> None:
    async with house() as h:
        h.runtime.refusal = RuntimeError("boom")
        with pytest.raises(Exception, match="boom"):
            await h.large.start()

        assert h.admission.free(MEMORY) == 100 * MIB


async def test_many_models_share_memory_without_a_deadlock() -> None:
    async with house() as h:

        async def use(model: Model) -> None:
            for _ in range(10):
                async with model.lease():
                    await asyncio.sleep(0)

        async with within(30, "not every model had its leases"):
            await asyncio.gather(*(use(m) for m in (h.small, h.large, h.other) for _ in range(3)))


# GPUs.

GB = 10**9
ONE = (Gpu("gpu-0", 100 * GB, 80 * GB),)
TWO = (Gpu("gpu-0", 100 * GB, 100 * GB), Gpu("gpu-1", 50 * GB, 50 * GB))


class Rack:
    """Models that need GPUs, with the GB of each, or its whole need."""

    def __init__(self, gpus: Sequence[Gpu], **needs: GpuNeed | int) -> None:
        self.runtime, self.engine = FakeRuntime(), FakeEngine()
        self.engine.gpu_needs = {
            name: GpuNeed(need * GB) if isinstance(need, int) else need
            for name, need in needs.items()
        }
        self.admission = machine(1000 * MIB, gpus)
        self.models = {name: self.model(name) for name in needs}

    def __getitem__(self, name: str) -> Model:
        return self.models[name]

    def model(self, name: str) -> Model:
        return make_model(spec(name), self.runtime, self.engine, admission=self.admission)

    def share(self, name: str) -> GpuShare | None:
        return self.runtime.shares[f"tgi-{name}"]

    @property
    def running(self) -> set[str]:
        return {name.removeprefix("tgi-") for name in self.runtime.running}


@asynccontextmanager
async def rack(gpus: Sequence[Gpu], **needs: GpuNeed | int) -> AsyncGenerator[Rack]:
    built = Rack(gpus, **needs)
    async with within(WHOLE, "not every start and stop of a model came to an end"):
        yield built
        for model in built.models.values():
            await model.close(0)
    assert [built.admission.free(gpu.id) for gpu in gpus] == [gpu.limit_bytes for gpu in gpus]


async def test_models_share_a_gpu_each_up_to_a_fraction_above_the_last() -> None:
    async with rack(ONE, first=30, second=20, third=30) as r:
        for name in ("first", "second", "third"):
            await r[name].start()

        assert [r.share(name) for name in ("first", "second", "third")] == [
            GpuShare(("gpu-0",), 0.3),
            GpuShare(("gpu-0",), 0.5),
            GpuShare(("gpu-0",), 0.8),
        ]
        assert r.admission.gpu_amounts(Key("second")) == {"gpu-0": 20 * GB}
        assert r.admission.free("gpu-0") == 0


async def test_a_model_that_does_not_fit_a_gpu_evicts_the_least_recently_used_of_it() -> None:
    async with rack(TWO, old=40, other=92, new=50, plain=8) as r:
        for name in ("old", "other", "plain"):
            await r[name].start()
        assert r.admission.gpu_amounts(Key("old")) == {"gpu-1": 40 * GB}

        assert r["new"].quote().plan.evicted == (Key("old"),)
        await r["new"].start()

        assert r.running == {"other", "plain", "new"}
        assert r.share("new") == GpuShare(("gpu-1",), 1.0)


async def test_a_model_in_use_keeps_its_gpu() -> None:
    async with rack(ONE, small=50, large=60) as r:
        async with r["small"].lease():
            start = asyncio.create_task(r["large"].start())
            await waits(r["large"])
            assert r["large"].quote().plan.must_wait
            assert r.running == {"small"}

        await start
        assert r.running == {"large"}


async def test_without_a_figure_a_model_has_all_gpus_to_itself() -> None:
    async with rack((*ONE, TWO[1]), small=10, greedy=GpuNeed()) as r:
        await r["small"].start()
        await r["greedy"].start()

        assert r.running == {"greedy"}
        assert r.share("greedy") == GpuShare(("gpu-0", "gpu-1"), 0.8)  # fills both alike


async def test_models_that_need_no_gpu_have_no_share() -> None:
    async with rack(ONE, greedy=GpuNeed()) as r:
        plain = make_model(spec("plain"), r.runtime, r.engine, admission=r.admission)
        await r["greedy"].start()
        await plain.start()

        assert r.running == {"greedy", "plain"}
        assert r.share("plain") is None
        await plain.stop()


async def test_where_no_gpu_is_known_no_model_has_a_share() -> None:
    async with rack((), one=500, two=GpuNeed()) as r:
        await r["one"].start()
        await r["two"].start()

        assert r.running == {"one", "two"}
        assert (r.share("one"), r.share("two")) == (None, None)


@pytest.mark.parametrize(
    ("need", "message"),
    [
        (GpuNeed(200 * GB), "needs 200.0 GB of GPU memory, and models can have 100.0 GB and 50.0"),
        (GpuNeed(count=3), "needs 3 GPUs, and models can have 100.0 GB and 50.0 GB of the GPUs"),
        (GpuNeed(120 * GB, 2), "needs 2 GPUs with 120.0 GB of GPU memory"),
    ],
)
async def test_a_model_that_can_never_fit_the_gpus_is_refused_at_once(
    need: GpuNeed, message: str
) -> None:
    async with rack(TWO, huge=need) as r:
        with pytest.raises(InsufficientMemory, match=message) as refused:
            r["huge"].begin()

    assert refused.value.metadata == {
        "model_id": "huge",
        "required_gpu_bytes": str(need.memory_bytes or 0),
        "capacity_gpu_bytes": str(150 * GB),
    }


async def test_models_on_one_gpu_start_one_after_the_other() -> None:
    async with rack(ONE, first=30, second=20, third=20) as r:
        r.engine.may_answer.clear()
        starts = [asyncio.create_task(r["first"].start())]
        await r.runtime.engine("tgi-first")
        for name in ("second", "third"):
            starts.append(asyncio.create_task(r[name].start()))
            await waits(r[name])
        progress = r["third"].status.progress
        plain = make_model(spec("plain"), r.runtime, FakeEngine(), admission=r.admission)

        await plain.start()  # models that wait for a GPU do not delay the others
        assert r.running == {"first", "plain"}
        assert progress is not None
        assert progress.message == "waits until first, second has started on the same GPU"

        r.engine.may_answer.set()
        await asyncio.gather(*starts)
        assert r.runtime.started == ["tgi-first", "tgi-plain", "tgi-second", "tgi-third"]
        await plain.stop()


async def test_two_gpus_start_two_models_at_once() -> None:
    async with rack(TWO, first=30, second=40) as r:
        r.engine.may_answer.clear()
        starts = [asyncio.create_task(r[name].start()) for name in ("first", "second")]
        await r.runtime.engine("tgi-first")
        await r.runtime.engine("tgi-second")
        r.engine.may_answer.set()
        await asyncio.gather(*starts)

        assert r.admission.gpu_amounts(Key("first")) == {"gpu-1": 30 * GB}
        assert r.admission.gpu_amounts(Key("second")) == {"gpu-0": 40 * GB}


async def test_a_start_takes_what_is_given_back_on_its_gpu_meanwhile() -> None:
    async with rack(ONE, first=30, second=20, third=10) as r:
        await r["first"].start()
        r.engine.may_answer.clear()
        starts = [asyncio.create_task(r["second"].start())]
        await r.runtime.engine("tgi-second")
        starts.append(asyncio.create_task(r["third"].start()))
        await waits(r["third"])

        await r["first"].stop()  # its 30 GB are below the fraction of the second
        r.engine.may_answer.set()
        await asyncio.gather(*starts)

        assert r.admission.gpu_amounts(Key("second")) == {"gpu-0": 50 * GB}
        assert r.admission.gpu_amounts(Key("third")) == {"gpu-0": 10 * GB}
        assert r.share("third") == GpuShare(("gpu-0",), 0.6)


async def test_no_model_is_evicted_from_a_gpu_on_which_another_starts() -> None:
    async with rack(ONE, first=30, second=20, third=40) as r:
        await r["first"].start()
        r.engine.may_answer.clear()
        starts = [asyncio.create_task(r["second"].start())]
        await r.runtime.engine("tgi-second")
        starts.append(asyncio.create_task(r["third"].start()))
        await waits(r["third"])
        assert r["third"].quote().plan.must_wait

        r.engine.may_answer.set()
        await asyncio.gather(*starts)
        assert r.running == {"second", "third"}
        assert r.admission.gpu_amounts(Key("second")) == {"gpu-0": 20 * GB}


async def test_a_start_takes_nothing_from_a_start_that_waits() -> None:
    async with rack(ONE, first=30, second=20) as r:
        r.engine.may_answer.clear()
        start = asyncio.create_task(r["first"].start())
        await r.runtime.engine("tgi-first")
        r["second"].begin()
        await waits(r["second"])

        await r["second"].stop()
        r.engine.may_answer.set()
        await start

        assert r.admission.gpu_amounts(Key("first")) == {"gpu-0": 30 * GB}


async def test_engines_that_are_adopted_keep_their_gpus() -> None:
    async with rack(TWO, one=10, two=10, new=10) as r:
        r.engine.may_answer.clear()
        for name in ("one", "two"):
            r.admission.keep(Key(name), ("gpu-0",))  # without this, gpu-1 is chosen
            r[name].begin()
        await r.runtime.engine("tgi-one")
        await r.runtime.engine("tgi-two")  # without a wait for the first

        assert r.admission.gpu_amounts(Key("one")) == {"gpu-0": 10 * GB}
        assert r.admission.gpu_amounts(Key("two")) == {"gpu-0": 10 * GB}
        r.engine.may_answer.set()
        await r["one"].start()
        await r["one"].stop()
        await r["one"].start()
        assert r.admission.gpu_amounts(Key("one")) == {"gpu-1": 10 * GB}


async def test_an_engine_that_is_adopted_takes_nothing_that_another_gives_back() -> None:
    async with rack(ONE, one=10, two=10) as r:
        r.engine.may_answer.clear()
        for name in ("one", "two"):
            r.admission.keep(Key(name), ("gpu-0",))
            r[name].begin()
            await r.runtime.engine(f"tgi-{name}")

        await r["one"].stop()

        assert r.admission.gpu_amounts(Key("two")) == {"gpu-0": 10 * GB}


async def test_an_engine_whose_gpu_is_not_there_any_more_gets_another() -> None:
    async with rack(ONE, one=10) as r:
        r.admission.keep(Key("one"), ("gpu-9",))
        await r["one"].start()

        assert r.share("one") == GpuShare(("gpu-0",), 0.1)
