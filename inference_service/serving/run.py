"""One run of an engine: one coroutine, from the claim on memory to the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol

from inference_service.capacity.admission import Admission
from inference_service.capacity.claims import Demand
from inference_service.errors import (
    EngineDied,
    EngineExited,
    EngineHung,
    LaunchError,
    ModelUnusable,
    ServiceError,
    StartFailed,
    StartFault,
    StartStalled,
    StopFailed,
    Unlaunchable,
)
from inference_service.key import Key
from inference_service.lifecycle import State
from inference_service.runtimes.base import Exit, Instance, Running
from inference_service.serving.back_off import BackOff
from inference_service.serving.checks import Checks
from inference_service.serving.entry import Entry
from inference_service.serving.leases import Lease, Leases
from inference_service.serving.race import race
from inference_service.serving.report import Report
from inference_service.serving.slots import Slots
from inference_service.serving.start import LOG_LINES, Start
from inference_service.serving.timing import Timing

log = logging.getLogger(__name__)

# The last lines of a log, in the search for the cause of an end: each request of a batch can write
# lines of its own after that cause.
_CAUSE_LINES = 200


class Peers(Protocol):
    """The runs of one model that serve together, as one of them sees them."""

    @property
    def slots(self) -> Slots[Any]:
        """The slots of all of them, and the queue for these."""

    def ready(self) -> None:
        """Note that one of them has become READY."""

    def stops(self) -> None:
        """Note that one of them has to end."""

    def died(self, error: ServiceError) -> None:
        """Note that the engine of one of them has ended by itself, or hangs."""

    def cut(self) -> None:
        """Note that the drain of one of them has lasted for as long as it may."""


class Run:
    """One engine, from the first request for it until nothing is left of it.

    `peers` are the runs that serve with it. The run is the tenant of its claim on memory. Its entry
    is the one with which it began, or an equal one. `adopts` says that the engine runs already, so
    that the start teaches nothing about the next one.
    """

    def __init__(
        self,
        key: Key,
        entry: Entry,
        peers: Peers,
        report: Report,
        admission: Admission,
        back_off: BackOff,
        timing: Timing,
        adopts: bool = False,
    ) -> None:
        self.key = key
        self.entry = entry
        self.report = report
        self.running: Running | None = None
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.leases = Leases(entry, peers.slots, timing.idle, admission.changed, peers.cut)
        self._peers = peers
        self._admission = admission
        self._back_off = back_off
        self._timing = timing
        self._adopts = adopts
        self._checks: Checks | None = None  # since READY
        self._left: set[asyncio.Future[None]] = set()  # see `Engine.parting`
        self._dying = False  # the engine has ended, and is being removed
        self._serving = False  # from READY to the death of the engine
        self._ready_at = 0.0
        self.gone.add_done_callback(lambda done: done.cancelled() or done.exception())

    # What its model asks.

    @property
    def serves(self) -> bool:
        """Whether the run can be used, now or when it is ready."""
        return not (self.leases.ended or self._dying)

    def serves_at(self, instance: Instance) -> bool:
        """Return whether this is the run of an instance."""
        return self.running is not None and self.running.instance is instance

    async def answers(self) -> bool:
        """Return whether the engine that was READY answers now; another in its place does not."""
        try:
            return self.running is not None and await self.entry.engine.ready(self.running.instance)
        except LaunchError:
            return False

    @property
    def busy(self) -> int:
        """The requests that its engine works on, with those whose callers have left."""
        return self.leases.count + len(self._left)

    @property
    def free(self) -> bool:
        """Whether its engine takes one more request now."""
        return self._serving and self.busy < self.entry.command.concurrency

    def refuse_what_cannot_fit(self, prompt: str) -> None:
        """Raise PromptTooLong for a prompt that surely has more tokens than the context."""
        if self._checks is not None:
            self._checks.prompt(prompt, self.entry)

    def take(self) -> Lease:
        """Return a lease on a run that is `free`."""
        assert self.running is not None and self._checks is not None, "a free run is READY"
        return self.leases.take(self.running.instance, self._checks)

    def give(self, lease: Lease, freed: Callable[[], None]) -> None:
        """Take a lease back; `freed` is called when a slot of the engine is free later than that.

        Callers do not wait for an engine that notices late that they have left.
        """

        def over(request: asyncio.Future[None]) -> None:
            self._left.discard(request)
            freed()

        for request in self.entry.engine.parting(lease.instance):
            if request not in self._left:
                self._left.add(request)
                request.add_done_callback(over)
        self.leases.give(lease)

    def end(self, drain: float) -> None:
        """End the run after a drain of at most so many seconds."""
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
            log.exception("%s: fault in a run", self.key.model_id)
            failure = StartFault(self.key.model_id, error)
        if self.leases.ended and not isinstance(failure, StopFailed):
            self.report.stopping()  # it may have broken before
            return None  # whatever broke on the way out, it is gone as was asked
        return failure

    def finish(self, failure: ServiceError | None) -> None:
        """Answer those who wait for the end: StopFailed where something is left."""
        if isinstance(failure, StopFailed):
            self.gone.set_exception(failure)
        else:
            self.gone.set_result(None)

    # What admission asks.

    @property
    def demand(self) -> Demand:
        return self.entry.demand(self.key)

    @property
    def settled(self) -> bool:
        return self.gone.done() or self.report.status.state is not State.STARTING

    @property
    def evictable(self) -> bool:
        if self.gone.done() or self.report.status.state is not State.READY:
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
        log.info("%s: makes room", self.key.model_id)
        self.end(0)
        await asyncio.wait([self.gone])
        return True

    # From the beginning to the end.

    async def _start_and_serve(self) -> None:
        runtime, launch = self.entry.runtime, self.entry.launch(self.key)
        start = Start(self.entry, self.report, self._timing)
        with self._admission.claim(self) as claim:
            await start.granted(claim)
            try:
                await start.pulled()
                async with runtime.run(launch, claim.gpus) as running:
                    self.running = running
                    await self._until_ready(running, start)
                    self._becomes_ready(running)
                    await self._until_dead(running)
            except Unlaunchable as error:
                phase = self.report.told_phase
                raise ModelUnusable(self.key.model_id, phase, str(error)) from None
            except LaunchError as error:
                phase = self.report.told_phase
                raise StartFailed(self.key.model_id, phase, str(error)) from None

    async def _until_ready(self, running: Running, start: Start) -> None:
        """Wait until the engine answers. One that is adopted was READY: it answers, or it hangs."""
        limit = self._timing.hang if self._adopts else None
        try:
            await start.healthy(running, self._fails(running, start), limit)
        except StartStalled:
            if limit is None:
                raise
            raise self._hung(running, limit) from None

    def _becomes_ready(self, running: Running) -> None:
        self._ready_at = _now()
        self._checks = Checks(running)
        if not self.leases.ended:
            self._serving = True
            self.leases.ready()
            self._peers.ready()
            self.report.ready(running.instance, learns=not self._adopts)
            self._peers.slots.serve()

    async def _until_dead(self, running: Running) -> None:
        """Wait for the death of the engine, and raise it as an error."""
        try:
            await race(self._dies(running), self._hangs(running))
        except Exception as error:
            if not isinstance(error, ServiceError):
                error = StartFault(self.key.model_id, error)
            self._serving, self._dying = False, True
            self._peers.died(error)
            raise
        finally:
            self._serving, self._dying = False, True
            self._back_off.served(_now() - self._ready_at)

    async def _fails(self, running: Running, start: Start) -> None:
        exit = await running.wait()
        await start.has_read()
        raise self._death(running, exit)

    async def _dies(self, running: Running) -> None:
        raise self._death(running, await running.wait())

    async def _hangs(self, running: Running) -> None:
        """Raise EngineHung when the engine has answered nothing for too long.

        The limit is generous, because engines do not answer while they read a long prompt.
        """
        answered = _now()
        while (silence := _now() - answered) < self._timing.hang:
            await asyncio.sleep(self._timing.probe)
            if await self.answers():
                answered = _now()
        self._back_off.served(_now() - self._ready_at)
        raise self._hung(running, silence)

    async def _end(self) -> None:
        """Return when the run has to end, and is drained or cut."""
        await self.leases.over()
        self._peers.stops()
        self.report.stopping()
        await self.leases.drained()

    def _death(self, running: Running, exit: Exit) -> ServiceError:
        model_id, tail = self.key.model_id, running.tail(LOG_LINES)
        lines, engine = running.tail(_CAUSE_LINES), self.entry.engine
        cause = engine.cause(lines)
        if not self._serving:
            phase = self.report.told_phase
            if exit.has_no_program or engine.is_lasting(lines):
                return ModelUnusable(model_id, phase, cause or str(exit), exit.facts, tail)
            return EngineExited(model_id, phase, str(exit), exit.facts, cause, tail)
        self._back_off.served(_now() - self._ready_at)
        return EngineDied(model_id, str(exit), exit.facts, cause, self._back_off.next, tail)

    def _hung(self, running: Running, silence: float) -> EngineHung:
        tail = running.tail(LOG_LINES)
        return EngineHung(self.key.model_id, silence, self._back_off.next, tail)


def _now() -> float:
    return asyncio.get_running_loop().time()
