"""Engines that run already: what of their GPUs they keep, and what they do not."""

from __future__ import annotations

from inference_service.capacity.claims import GpuNeed
from inference_service.capacity.gpus import Gpu
from inference_service.key import Key
from inference_service.lifecycle import State
from tests.build import machine
from tests.build import model as make_model
from tests.fakes import FakeEngine, FakeRuntime, spec
from tests.waiting import until

GB = 10**9


async def test_an_engine_whose_gpu_has_gone_waits_for_those_that_start_on_another() -> None:
    runtime, engine = FakeRuntime(), FakeEngine()
    engine.gpu_needs = {"first": GpuNeed(10 * GB), "moved": GpuNeed(10 * GB)}
    admission = machine(GB, [Gpu("gpu-0", 100 * GB, 100 * GB)])
    first, moved = (
        make_model(spec(name), runtime, engine, admission=admission) for name in ("first", "moved")
    )
    engine.may_answer.clear()
    first.begin()
    await runtime.engine("tgi-first")
    admission.keep(Key("moved"), ("gpu-9",))
    moved.adopt([1])
    message = "waits until first has started on the same GPU"
    await until(
        lambda: moved.status.progress and moved.status.progress.message == message,
        "the engine did not wait",
    )
    assert runtime.started == ["tgi-first"]

    engine.may_answer.set()
    await until(lambda: moved.status.state is State.READY, "the engine waits for ever")
    await first.stop()
    await moved.stop()
