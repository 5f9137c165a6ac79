"""One run of an engine: one coroutine, from the claim on memory to the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from inference_service.capacity.admission import Admission
from inference_service.capacity.claims import Demand
from inference_service.errors import (
    EngineDied,
    EngineExited,
    EngineHung,
    LaunchError,
    ServiceError,
    StartFailed,
    StartFault,
    StopFailed,
)
from inference_service.key import Key
from inference_service.lifecycle import State
from inference_service.runtimes.base import Exit, Instance, Running
from inference_service.serving.back_off import BackOff
from inference_service.serving.entry import Entry
from inference_service.serving.leases import Leases
from inference_service.serving.race import race
from inference_service.serving.report import Report
from inference_service.serving.slots import Slots
from inference_service.serving.start import LOG_LINES, Start
from inference_service.serving.timing import Timing

log = logging.getLogger(__name__)


class Run:
    """One engine, from the first request for it until nothing is left of it.

    `ready` is done when the engine serves, with its instance, or with the error that kept it from
    that; `gone` when nothing is left, with StopFailed where something is. The run is the tenant of
    its claim on memory. Its entry is the one with which it began, or an equal one. `stopped` makes
    the error of callers whose run is stopped. `adopts` says that the engine runs already, so that
    the start teaches nothing about the next one.
    """

    def __init__(
        self,
        entry: Entry,
        report: Report,
        admission: Admission,
        back_off: BackOff,
        timing: Timing,
        stopped: Callable[[], ServiceError],
        adopts: bool = False,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.entry = entry
        self.running: Running | None = None
        self.ready: asyncio.Future[Instance] = loop.create_future()
        self.gone: asyncio.Future[None] = loop.create_future()
        self.replaced = False  # another run follows, with another entry
        self.key = Key(entry.spec.id)
        slots = Slots(
            entry.spec.id,
            entry.command.concurrency,
            timing.queue_size,
            heartbeat=timing.heartbeat,
        )
        self.leases = Leases(entry, slots, timing.idle, admission.changed)
        self._report = report
        self._admission = admission
        self._back_off = back_off
        self._timing = timing
        self._stopped = stopped
        self._adopts = adopts
        self._dying = False  # the engine has ended, and is being removed
        self._ready_at = 0.0
        for future in (self.ready, self.gone):  # an error that nobody waits for is in the log
            future.add_done_callback(lambda done: done.cancelled() or done.exception())

    # What its model asks.

    @property
    def serves(self) -> bool:
        """Whether the run can be used, now or when it is ready."""
        return not (self.leases.ended or self._dying)

    def end(self, drain: float, *, replaced: bool = False) -> None:
        """End the run after a drain of at most so many seconds; `replaced`: another follows."""
        self.replaced = replaced
        self.leases.end(drain)

    def replace_entry(self, entry: Entry) -> None:
        """Put an equal entry into force."""
        self.entry = entry
        self.leases.replace_entry(entry)

    async def live(self) -> ServiceError | None:
        """Run from the beginning to the end. Returns why the run has failed, if it has."""
        failure: ServiceError | None = None
        try:
            await race(self._start_and_serve(), self._end())
        except ServiceError as error:
            failure = error
        except Exception as error:
            log.exception("%s: fault in a run", self.demand.model_id)
            failure = StartFault(self.demand.model_id, error)
        if self.leases.ended and not isinstance(failure, StopFailed):
            self._report.stopping()  # it may have broken before
            return None  # whatever broke on the way out, it is gone as was asked
        return failure

    def finish(self, failure: ServiceError | None) -> None:
        """Answer those who wait for READY or for the end."""
        self._refuse(failure or self._stopped())
        if isinstance(failure, StopFailed):
            self.gone.set_exception(failure)
        else:
            self.gone.set_result(None)

    def _refuse(self, error: ServiceError) -> None:
        if not self.ready.done():
            self.ready.set_exception(error)

    # What admission asks.

    @property
    def demand(self) -> Demand:
        return self.entry.demand

    @property
    def settled(self) -> bool:
        return self.gone.done() or self._report.status.state is not State.STARTING

    @property
    def evictable(self) -> bool:
        if self.gone.done() or self._report.status.state is not State.READY:
            return False
        if self.entry.spec.pinned or self.leases.in_use:
            return False
        return _now() - self._ready_at >= self._timing.residency

    @property
    def used_at(self) -> float:
        return self.leases.used_at

    @property
    def removal_pending(self) -> bool:
        return self.entry.runtime.removal_pending(self.key)

    async def evict(self) -> bool:
        if not self.evictable:
            return False
        log.info("%s: makes room", self.demand.model_id)
        self.end(0)
        await asyncio.wait([self.gone])
        return True

    # From the beginning to the end.

    async def _start_and_serve(self) -> None:
        runtime, launch = self.entry.runtime, self.entry.launch(self.key)
        start = Start(self.entry, self._report, self._timing)
        with self._admission.claim(self) as claim:
            await start.granted(claim)
            try:
                await start.pulled()
                async with runtime.run(launch, claim.gpus) as running:
                    self.running = running
                    await start.healthy(running, self._dies(running))
                    self._becomes_ready(running.instance)
                    await self._until_dead(running)
            except LaunchError as error:
                raise StartFailed(self.key.model_id, self._report.phase, str(error)) from None

    def _becomes_ready(self, instance: Instance) -> None:
        self._ready_at = _now()
        if not self.leases.ended:
            self.leases.ready()
            self._report.ready(instance, learns=not self._adopts)
            self.ready.set_result(instance)

    async def _until_dead(self, running: Running) -> None:
        """Wait for the death of the engine, and raise it as an error."""
        try:
            await race(self._dies(running), self._hangs(running))
        except Exception as error:
            if not isinstance(error, ServiceError):
                error = StartFault(self.demand.model_id, error)
            self.leases.slots.close(error)
            raise
        finally:
            self._dying = True
            self._back_off.served(_now() - self._ready_at)

    async def _dies(self, running: Running) -> None:
        raise self._death(running, await running.wait())

    async def _hangs(self, running: Running) -> None:
        """Raise EngineHung when the engine has answered nothing for too long.

        The limit is generous, because engines do not answer while they read a long prompt.
        """
        answered = _now()
        while (silence := _now() - answered) < self._timing.hang:
            await asyncio.sleep(self._timing.probe)
            if await self.entry.engine.ready(running.instance):
                answered = _now()
        tail = running.tail(LOG_LINES)
        raise EngineHung(self.demand.model_id, silence, self._back_off_after_death(), tail)

    async def _end(self) -> None:
        """Return when the run has to end, and is drained or cut."""
        await self.leases.over()
        self._report.stopping()
        self._refuse(self._stopped())
        await self.leases.drained()

    def _death(self, running: Running, exit: Exit) -> ServiceError:
        model_id, tail = self.demand.model_id, running.tail(LOG_LINES)
        cause = self.entry.engine.cause(tail)
        if not self.ready.done():
            phase = self._report.phase
            return EngineExited(model_id, phase, str(exit), exit.facts, cause, tail)
        wait = self._back_off_after_death()
        return EngineDied(model_id, str(exit), exit.facts, cause, wait, tail)

    def _back_off_after_death(self) -> float:
        self._back_off.served(_now() - self._ready_at)
        return self._back_off.next


def _now() -> float:
    return asyncio.get_running_loop().time()
