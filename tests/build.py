"""Models over the fakes of `tests/fakes.py`."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from inference_service.capacity.admission import Admission
from inference_service.capacity.gpus import Gpu
from inference_service.capacity.nodes import LOCAL, Node
from inference_service.catalog import ModelSpec
from inference_service.engines.base import Chunk, Engine, Prompt
from inference_service.lifecycle import State
from inference_service.runtimes.base import Runtime
from inference_service.serving.entry import Entry
from inference_service.serving.leases import Lease
from inference_service.serving.model import Model
from inference_service.serving.start_times import StartTimes
from inference_service.serving.timing import Timing
from tests.fakes import FakeEngine, FakeRuntime
from tests.fakes import spec as make_spec
from tests.waiting import SLOWLY, within

_SETTINGS: dict[str, Any] = {
    "queue_size": 1024,
    "queue_wait": math.inf,
    "stall": 600.0,
    "drain": 30.0,
    "idle": math.inf,
    "residency": 0.0,
    "hang": 120.0,
    "probe": 15.0,
}


def timing(**changes: float) -> Timing:
    """Return times that no test reaches, but for the given ones and for a quick poll."""
    return Timing(**{**_SETTINGS, "poll": 0.001, **changes})


QUICK = timing()


def model(
    spec: ModelSpec | None = None,
    runtime: Runtime | None = None,
    engine: Engine | None = None,
    timing: Timing = QUICK,
    admission: Admission | None = None,
    start_times: StartTimes | None = None,
    count: int = 1,
) -> Model:
    """Make a model, by default on new fakes and with a gigabyte of memory to itself."""
    entry = Entry.of(spec or make_spec(), runtime or FakeRuntime(), engine or FakeEngine())
    admission = admission or machine(10**9)
    return Model(entry, timing, admission, start_times or StartTimes(), count=count)


def machine(memory_bytes: int, gpus: Sequence[Gpu] = ()) -> Admission:
    """Return the admission to one machine."""
    return Admission([Node(LOCAL, memory_bytes, tuple(gpus))])


async def generate(model: Model, count: int = 3) -> str:
    """Take a lease, and return a text of `count` tokens from its engine."""
    prompt = Prompt("once", max_new_tokens=count)
    async with model.lease() as lease, aclosing(chunks(lease, prompt)) as text:
        return "".join([chunk.text async for chunk in text])


def chunks(lease: Lease, prompt: Prompt) -> AsyncGenerator[Chunk]:
    """Ask the engine of a lease for a text."""
    return lease.entry.engine.generate(lease.instance, lease.entry.spec, prompt)


async def reached(model: Model, state: State) -> None:
    """Return as soon as the model is in this state."""
    async with within(SLOWLY, f"{model.id} did not become {state}"):
        while model.status.state is not state:
            await model.changes.next()


def idle_in(model: Model) -> float:
    """Return the seconds until the idle timeout of a model ends; inf where that is never."""
    view = model.view()
    return math.inf if view.expire_time is None else view.expire_time - view.seen
