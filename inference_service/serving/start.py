"""One start of an engine: its progress, and its end when nothing moves any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterator
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

from inference_service.capacity.admission import Claim
from inference_service.errors import LaunchError, StartStalled
from inference_service.lifecycle import Phase, Progress
from inference_service.runtimes.base import Running
from inference_service.serving.entry import Entry
from inference_service.serving.race import race
from inference_service.serving.report import Report
from inference_service.serving.timing import Timing

LOG_LINES = 20  # of an engine's log, in an error
_LAST_LINES = 1.0  # seconds for what an engine that has ended has said last


class Start:
    """The start of one run, step by step. Every step reports its progress."""

    def __init__(self, entry: Entry, report: Report, timing: Timing) -> None:
        self._entry = entry
        self._report = report
        self._timing = timing
        self._limit = timing.stall
        self._stall = asyncio.timeout(None)  # that of the present step, if it has one
        self._read = asyncio.Event()  # the log of an engine that has ended

    async def granted(self, claim: Claim) -> None:
        """Wait for the memory of the run, for as long as that takes."""
        await self._follow(claim.granted())

    async def pulled(self) -> None:
        """Fetch what the runtime needs. Raises StartStalled, and what the runtime raises."""
        async with self._stalling():
            try:
                await self._follow(self._entry.runtime.pull(self._entry.command))
            except LaunchError:
                if self._report.phase is Phase.WAITING:  # which is over: the memory was granted
                    self._moved(Progress(Phase.CREATING_CONTAINER))
                raise
            self._moved(Progress(Phase.CREATING_CONTAINER))

    async def healthy(
        self, running: Running, death: Coroutine[Any, Any, None], limit: float | None = None
    ) -> None:
        """Wait until the engine answers. Raises StartStalled, and what `death` raises.

        `limit` is the time in seconds in which something has to move; None is the setting.
        """
        self._limit = self._timing.stall if limit is None else limit
        async with self._stalling(running):
            await race(self._answers(running), self._reports(running), death)

    async def has_read(self) -> None:
        """Wait, once the engine has ended, until its last lines are read."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_LINES):
                await self._read.wait()

    async def _answers(self, running: Running) -> None:
        await running.listens()
        for pause in pauses(self._timing):
            if await self._entry.engine.ready(running.instance):
                return
            await asyncio.sleep(pause)

    async def _reports(self, running: Running) -> None:
        await self._follow(self._entry.engine.progress(self._entry.command, running))
        self._read.set()
        await asyncio.Event().wait()  # the end of the log is not the end of the race

    async def _follow(self, steps: AsyncGenerator[Progress]) -> None:
        async with aclosing(steps):
            async for progress in steps:
                self._moved(progress)

    def _moved(self, progress: Progress) -> None:
        moved = self._report.progress(progress)
        if moved and self._stall.when() is not None and not self._stall.expired():
            self._stall.reschedule(asyncio.get_running_loop().time() + self._limit)

    @asynccontextmanager
    async def _stalling(self, running: Running | None = None) -> AsyncGenerator[None]:
        """Raise StartStalled when nothing moves in the block for too long."""
        try:
            async with asyncio.timeout(self._limit) as self._stall:
                yield
        except TimeoutError:
            tail = running.tail(LOG_LINES) if running else ()
            phase = self._report.told_phase
            raise StartStalled(self._entry.spec.id, phase, self._limit, tail) from None


def pauses(timing: Timing) -> Iterator[float]:
    """Yield the pauses between looks at an engine: about a tenth of the time so far.

    So a short start is not made much longer by the last pause.
    """
    pause = timing.poll
    while True:
        yield pause
        pause = min(pause * 1.1, timing.poll_longest)
