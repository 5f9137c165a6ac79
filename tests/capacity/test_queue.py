"""The queue for memory looks again at each change that may make room, and not at its timer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from inference_service.capacity.admission import Admission
from inference_service.capacity.claims import GpuNeed
from inference_service.capacity.gpus import Gpu
from inference_service.capacity.nodes import LOCAL, Node
from inference_service.lifecycle import Phase, State
from inference_service.serving.model import Model
from tests.build import model as make_model
from tests.fakes import FakeEngine, FakeRuntime, spec
from tests.waiting import PROMPTLY, within

MIB = 2**20


class Untimed(Admission):
    """An admission without the look of each second."""

    async def _change(self) -> None:
        await self._changed.wait()


class Bed:
    """A large model that fills the memory, and two small ones that fit side by side."""

    def __init__(self) -> None:
        self.runtime, self.engine = FakeRuntime(), FakeEngine()
        self.admission = Untimed([Node(LOCAL, 100 * MIB, (Gpu("gpu-0", 100, 100),))])
        self.large = self.model("large", "100MiB")
        self.small = [self.model(name, "50MiB") for name in ("one", "two")]

    def model(self, name: str, memory: str) -> Model:
        entry = spec(name, memory=memory)
        return make_model(entry, self.runtime, self.engine, admission=self.admission)

    async def wait(self, model: Model) -> asyncio.Task[None]:
        """Start a model as far as the queue, until that is still."""
        start = asyncio.create_task(model.start())
        while not (model.status.progress and model.status.progress.phase is Phase.WAITING):
            await model.changes.next()
        for _ in range(20):
            await asyncio.sleep(0)
        return start


@asynccontextmanager
async def made() -> AsyncGenerator[Bed]:
    bed = Bed()
    try:
        yield bed
    finally:  # a test that fails may not hang
        bed.runtime.may_leave.set()
        for model in (bed.large, *bed.small):
            await model.close(0)


async def granted(*starts: asyncio.Task[None]) -> None:
    async with within(PROMPTLY, "the queue did not look again"):
        await asyncio.gather(*starts)


async def test_at_the_end_of_the_last_use() -> None:
    async with made() as bed:
        async with bed.large.lease():
            starts = [await bed.wait(small) for small in bed.small]

        await granted(*starts)


async def test_at_the_end_of_a_run() -> None:
    async with made() as bed:
        bed.runtime.may_leave.clear()
        await bed.large.start()
        stop = asyncio.create_task(bed.large.stop())
        starts = [await bed.wait(small) for small in bed.small]
        bed.runtime.may_leave.set()

        await granted(stop, *starts)


async def test_at_the_end_of_a_start() -> None:
    async with made() as bed:
        bed.engine.may_answer.clear()
        bed.large.begin()
        await bed.runtime.engine("tgi-large")
        starts = [await bed.wait(small) for small in bed.small]
        bed.engine.may_answer.set()

        await granted(*starts)


async def test_at_the_end_of_the_wait_of_the_first() -> None:
    async with made() as bed:
        async with bed.small[0].lease():
            large, small = await bed.wait(bed.large), await bed.wait(bed.small[1])
            await bed.large.stop()
            await asyncio.wait([large])

            await granted(small)
        assert isinstance(large.exception(), Exception)


async def test_at_the_end_of_a_start_on_the_same_gpu() -> None:
    async with made() as bed:
        bed.engine.gpu_needs = {name: GpuNeed(10) for name in ("one", "two")}
        first, second = (bed.model(name, "10MiB") for name in ("one", "two"))
        bed.engine.may_answer.clear()
        first.begin()
        await bed.runtime.engine("tgi-one")
        start = await bed.wait(second)
        bed.engine.may_answer.set()

        await granted(start)
        assert first.status.state is State.READY
        for model in (first, second):
            await model.stop()
