"""Several machines: each thing is claimed on its own node."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from inference_service.capacity.admission import Admission
from inference_service.capacity.claims import MEMORY, GpuNeed, Thing
from inference_service.capacity.gpus import Gpu
from inference_service.capacity.nodes import LOCAL, Node
from inference_service.errors import InsufficientGpus, InsufficientMemory
from inference_service.lifecycle import State
from inference_service.serving.model import Model
from tests.build import model as make_model
from tests.fakes import FakeEngine, FakeRuntime, spec
from tests.waiting import until

MIB = 2**20
NODES = (
    Node("small", 100 * MIB, (Gpu("0", 50, 50),)),
    Node("large", 200 * MIB, (Gpu("0", 100, 100),), "the limit of x"),
)


class Cluster(FakeRuntime):
    """A runtime of two machines, whose GPUs have the same id."""

    nodes: Sequence[Node] = NODES


class House:
    """Models on two machines."""

    def __init__(self) -> None:
        self.runtime, self.engine = Cluster(), FakeEngine()
        self.admission = Admission(NODES)

    def model(self, model_id: str, memory: str, gpu_need: GpuNeed | None = None) -> Model:
        if gpu_need is not None:
            self.engine.gpu_needs[model_id] = gpu_need
        entry = spec(model_id, memory=memory)
        return make_model(entry, self.runtime, self.engine, admission=self.admission)

    def free(self) -> list[int]:
        return [self.admission.free(MEMORY, node.name) // MIB for node in NODES]


async def test_a_model_goes_where_it_fits() -> None:
    house = House()
    large, first, second = (
        house.model("large", "150MiB"),
        house.model("first", "60MiB"),
        house.model("second", "50MiB"),
    )

    await large.start()
    assert house.free() == [100, 50]
    await first.start()
    assert house.free() == [40, 50]
    await second.start()
    assert house.free() == [40, 0]

    for model in (large, first, second):
        await model.stop()
    assert house.free() == [100, 200]


async def test_a_model_that_fits_nowhere_waits_for_any_of_the_nodes() -> None:
    house = House()
    held = [house.model("one", "90MiB"), house.model("two", "190MiB")]
    for model in held:
        await model.start()
    async with held[0].lease(), held[1].lease():
        late = house.model("late", "95MiB")
        start = asyncio.create_task(late.start())
        await until(lambda: late.status.state is State.STARTING, "it does not wait")
        assert late.quote().plan.must_wait
    await start
    assert [model.status.state for model in held].count(State.READY) == 1
    for model in (*held, late):
        await model.close(0)


async def test_gpus_of_one_id_on_two_nodes_are_two_gpus() -> None:
    house = House()
    one = house.model("one", "10MiB", GpuNeed(50))
    two = house.model("two", "10MiB", GpuNeed(80))

    await one.start()
    assert house.admission.free("0", "small") == 0
    await two.start()
    assert house.admission.free("0", "large") == 20
    assert dict(two.view().gpus) == {"0": 80}
    quote = house.model("three", "10MiB", GpuNeed(20)).quote()
    assert quote.plan.amounts == {Thing("large", MEMORY): 10 * MIB, Thing("large", "0"): 20}
    assert quote.free == {MEMORY: 190 * MIB, "0": 20}
    for model in (one, two):
        await model.stop()


async def test_what_fits_on_no_node_is_refused_with_the_largest() -> None:
    house = House()
    with pytest.raises(InsufficientMemory, match=r"needs 0\.2 GB.* the limit of x; .*that limit"):
        house.model("huge", "201MiB").quote()
    with pytest.raises(InsufficientGpus):
        house.model("wide", "10MiB", GpuNeed(101)).quote()


async def test_an_engine_elsewhere_claims_nothing() -> None:
    class Elsewhere(FakeRuntime):
        nodes: Sequence[Node] = ()

    model = make_model(spec(memory="2GB"), Elsewhere(), FakeEngine(), admission=Admission(NODES))
    await model.start()

    quote = model.quote()
    assert (quote.plan.amounts, quote.amounts, quote.free) == ({}, {}, {})
    assert dict(model.view().gpus) == {}
    await model.stop()


async def test_two_runtimes_of_one_machine_share_its_memory() -> None:
    bare = Node(LOCAL, 100 * MIB)
    admission = Admission([bare, replace(bare, gpus=(Gpu("0", 50, 50),))])

    assert admission.free(MEMORY) == 100 * MIB
    assert admission.free("0") == 50
