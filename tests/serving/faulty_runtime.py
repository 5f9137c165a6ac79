"""A fake runtime of one model, in which more can fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager

from inference_service.capacity.claims import GpuShare
from inference_service.lifecycle import Progress
from inference_service.runtimes.command import Command, Launch
from tests.fakes import FakeRunning, FakeRuntime


class FaultyRuntime(FakeRuntime):
    """A runtime of one model, with more faults and gates.

    As with Docker, a removal that has begun is carried through, and an engine that could not be
    removed is removed before the next start.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pull_refusal: Exception | None = None
        self.may_remove = asyncio.Event()
        self.may_remove.set()
        self.left_at = 0.0  # when the last run was left

    @property
    def refuses(self) -> bool:
        return any((self.pull_refusal, self.refusal, self.stop_refusal))

    @property
    def current(self) -> FakeRunning | None:
        """The instance, if any, but for one that could not be removed."""
        return None if self.unremoved else next(iter(self.running.values()), None)

    async def pull(self, command: Command) -> AsyncGenerator[Progress]:
        async with aclosing(super().pull(command)) as pull:
            async for progress in pull:
                yield progress
        refusal, self.pull_refusal = self.pull_refusal, None
        if refusal is not None:
            raise refusal

    @asynccontextmanager
    async def run(
        self, launch: Launch, gpus: GpuShare | None = None
    ) -> AsyncGenerator[FakeRunning]:
        if self.unremoved:
            self.removes_at_last()
        async with super().run(launch, gpus) as running:
            try:
                yield running
            finally:
                self.left_at = asyncio.get_running_loop().time()
                await self._remove()

    async def _remove(self) -> None:
        removal = asyncio.ensure_future(self.may_remove.wait())
        try:
            await asyncio.shield(removal)
        except asyncio.CancelledError:
            await asyncio.wait([removal])
            raise
