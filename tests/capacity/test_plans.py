"""Plans for a model that runs already, and for one that fills the machine."""

from __future__ import annotations

from inference_service.capacity.claims import MEMORY, GpuNeed
from inference_service.capacity.gpus import Gpu
from tests.build import machine
from tests.build import model as make_model
from tests.fakes import FakeEngine, FakeRuntime, spec

MIB = 2**20


async def test_a_model_that_runs_would_hold_what_it_holds() -> None:
    runtime, engine = FakeRuntime(), FakeEngine()
    engine.gpu_needs = {name: GpuNeed(50) for name in ("first", "second")}
    admission = machine(1000 * MIB, [Gpu(f"gpu-{n}", 50, 50) for n in range(2)])
    first, second = (
        make_model(spec(name), runtime, engine, admission=admission) for name in ("first", "second")
    )
    await first.start()
    await second.start()
    await first.stop()  # whose GPU a new start would get

    assert second.quote().amounts == {MEMORY: 64 * MIB, "gpu-0": 0, "gpu-1": 50}
    await second.stop()


async def test_a_model_may_fill_the_machine() -> None:
    model = make_model(spec(memory="64MiB"), admission=machine(64 * MIB))
    await model.start()
    await model.stop()
