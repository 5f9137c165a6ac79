"""One model for its callers: leases, starts and stops, whatever run serves them."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager

from inference_service.capacity.admission import Admission
from inference_service.capacity.claims import Quote
from inference_service.errors import (
    DeadlineTooShort,
    ModelRemoved,
    ModelStopped,
    NotRunning,
    ServiceError,
    ShuttingDown,
    StartBackingOff,
)
from inference_service.lifecycle import State, Status
from inference_service.runtimes.base import Instance, Running
from inference_service.serving.back_off import BackOff
from inference_service.serving.entry import Entry
from inference_service.serving.leases import Lease
from inference_service.serving.report import Notify, Report
from inference_service.serving.run import Run
from inference_service.serving.start import pauses
from inference_service.serving.start_times import StartTimes
from inference_service.serving.timing import Timing
from inference_service.serving.view import View

log = logging.getLogger(__name__)


class Model:
    """A model of the catalog; `entry` is that of the next run.

    Callers do not act on a status: they ask for a lease, a start or a stop, and get a fact.
    `changed` is called after each change of what is shown.
    """

    def __init__(
        self,
        entry: Entry,
        timing: Timing,
        admission: Admission,
        start_times: StartTimes,
        changed: Callable[[Model], None] = lambda _: None,
    ) -> None:
        self.id = entry.spec.id
        self.entry = entry
        self.report = Report(self.id, start_times, self._show)
        self._timing = timing
        self._admission = admission
        self._changed = changed
        self._back_off = BackOff(
            timing.back_off, timing.back_off_longest, timing.healthy_spell, _now
        )
        self._run: Run | None = None
        self._running: Running | None = None  # the last one, whose log outlives its run
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._removed = False

    @property
    def status(self) -> Status:
        """The status at the last change."""
        return self.report.status

    @property
    def gone(self) -> bool:
        """Whether the model was removed from the catalog, and nothing of it is left."""
        return self._removed and self._run is None

    @property
    def usual_start(self) -> float | None:
        """The usual seconds of a start, by past ones; None when there were none."""
        return self.report.usual_start(self.entry)

    def view(self) -> View:
        """Return the model as it is now."""
        run, now = self._run, time.time()
        entry = self.entry if run is None or run.entry == self.entry else run.entry
        leases = run.leases if run else None
        ready = self.status.state is State.READY
        idle_in = leases.idle_in if leases and ready else None
        return View(
            id=self.id,
            hf_name=entry.spec.hf_name,
            engine=entry.engine.name,
            runtime=entry.runtime.name,
            context_length=entry.spec.context_length,
            memory_bytes=entry.command.needs.memory_bytes,
            pinned=entry.spec.pinned,
            status=self.report.now(),
            gpus=self._admission.gpu_amounts(self.id),
            active_count=leases.count if leases else 0,
            queued_count=leases.slots.queued if leases else 0,
            expire_time=None if idle_in is None else now + idle_in,
            seen=now,
        )

    def quote(self) -> Quote:
        """Return what a start would claim. Raises InsufficientMemory when it can never fit."""
        return self._admission.quote(self.entry.demand)

    @asynccontextmanager
    async def lease(
        self,
        idle_timeout: float | None = None,
        caller: str = "",
        deadline: float = math.inf,
        notify: Notify | None = None,
    ) -> AsyncGenerator[Lease]:
        """Hold the model in READY, after a start if needed, and one slot.

        `idle_timeout` (seconds) is in force after this lease until the next one; None is the
        entry's. Slots go round robin between callers. `deadline` is the moment at which the caller
        gives up, on the clock of the loop. `notify` is awaited at first, at each change, and after
        each `heartbeat`, until the lease is held. The block ends with ModelStopped when a stop has
        waited for as long as it may.
        """
        run, instance = await self._ready(deadline, notify)
        lease = run.leases.take(instance)
        slots = run.leases.slots

        async def report_position(position: int) -> None:
            assert notify is not None
            await notify(self.status, position)

        try:
            async with lease.cut:
                await slots.take(caller, deadline, notify and report_position)
                try:
                    yield lease
                finally:
                    slots.give()
        except TimeoutError:
            if not lease.cut.expired():
                raise
            raise self._stopped() from None
        except ServiceError as error:
            error.metadata.setdefault("model_id", self.id)
            raise
        finally:
            run.leases.give(lease, idle_timeout)

    async def start(self, idle_timeout: float | None = None) -> None:
        """Return when the model is READY. Raises what a lease would, and counts as a use."""
        run, _ = await self._ready()
        run.leases.use(idle_timeout)

    def begin(self, adopts: bool = False) -> None:
        """Start the model unless it runs, and return at once. Raises what is known already.

        `adopts` says that the engine runs already.
        """
        if self._run is None:
            self._begin(adopts)

    async def recovered(self) -> None:
        """Return when the fate of an engine that broke off a request is known.

        That is when the engine answers again, or when another may be started. Raises ModelStopped
        when somebody stops the model.
        """
        for pause in pauses(self._timing):
            if (run := self._run) is None:
                break
            if run.leases.ended:
                raise self._stopped()
            if run.running is None or self.status.state is State.STARTING:
                return
            if run.serves and await run.entry.engine.ready(run.running.instance):
                return
            await asyncio.wait([run.gone], timeout=pause)  # the runtime reports its death
        await asyncio.sleep(max(0.0, self._back_off.left))

    async def stop(self, drain: float | None = None) -> None:
        """Drain and end the model; return when nothing is left of it.

        `drain` is in seconds; None is the setting. Raises NotRunning, or StopFailed when something
        could not be removed yet.
        """
        if (run := self._run) is None:
            raise NotRunning(self.id)
        run.end(self._timing.drain if drain is None else drain)
        await asyncio.shield(run.gone)

    async def logs(self, last: int, follow: bool) -> AsyncGenerator[str]:
        """Yield the last lines of the present or last engine, then new ones to follow.

        Raises NotRunning when the model has never been started.
        """
        running = (self._run and self._run.running) or self._running
        if running is None:
            raise NotRunning(self.id)
        if not follow:
            for line in running.tail(last):
                yield line
            return
        async with aclosing(running.logs(last)) as lines:
            async for line in lines:
                yield line

    def change(self, entry: Entry) -> bool:
        """Take another entry of the catalog; return whether that restarts the model.

        An equal entry is in force at once. Any other drains a run, and begins the next.
        """
        run = self._run
        self._removed = False
        self.entry = entry
        if run is not None and run.leases.ended:  # its drain was asked for by another
            return run.replaced
        if run is not None and run.entry != entry:
            run.end(self._timing.drain, replaced=True)
            return True
        if run is not None:
            run.replace_entry(entry)
        self.report.repeat()
        return False

    def remove(self) -> None:
        """Take the model out of the catalog: refuse callers, drain and stop."""
        self._removed = True
        if self._run is not None:
            self._run.end(self._timing.drain)
        else:
            self.report.repeat()

    async def close(self, drain: float) -> None:
        """Refuse callers from now on, and stop. Never raises."""
        self._closed = True
        if self._run is not None:
            self._run.end(drain)
        if self._task is not None:
            await asyncio.wait([self._task])

    # Getting to READY.

    async def _ready(
        self, deadline: float = math.inf, notify: Notify | None = None
    ) -> tuple[Run, Instance]:
        """Return a run that is READY at this moment: no await may follow in the caller."""
        while True:
            self._refuse()
            run = self._run or self._begin()
            if run.serves:
                if not run.ready.done():
                    self._in_time(run, deadline)
                    with run.leases.waiting():
                        await self.report.until(run.ready, notify, self._timing.heartbeat)
                if not run.replaced:
                    instance = run.ready.result()
                    if run.serves:
                        return run, instance
            await self.report.until(run.gone, notify, self._timing.heartbeat)

    def _in_time(self, run: Run, deadline: float) -> None:
        """Raise DeadlineTooShort if this start will take too long; the start goes on."""
        if math.isinf(deadline):
            return
        wait, left = self.report.start_at_best(), deadline - _now()
        if wait is not None and wait > left:
            raise DeadlineTooShort(self.id, left, wait, "it is starting")

    def _refuse(self) -> None:
        if self._closed:
            raise ShuttingDown
        if self._removed:
            raise ModelRemoved(self.id)

    def _begin(self, adopts: bool = False) -> Run:
        self._refuse()
        if (wait := self._back_off.left) > 0 and self.status.failure:
            raise StartBackingOff(self.id, wait, self.status.failure)
        self._admission.plan(self.entry.demand)  # raises for what can never fit
        run = self._run = Run(
            self.entry,
            self.report,
            self._admission,
            self._back_off,
            self._timing,
            self._stopped,
            adopts,
        )
        self.report.starting(self.entry)
        self._task = asyncio.create_task(self._live(run), name=f"run of {self.id}")
        return run

    async def _live(self, run: Run) -> None:
        """Own a run: the one task that ends it."""
        failure = await run.live()
        self._run, self._running = None, run.running or self._running
        if failure is None:
            self._back_off.forgive()
            self.report.stopped()
        else:
            self.report.failed(failure, self._back_off.failed())
        run.finish(failure)
        if run.replaced:
            self._begin_again()

    def _begin_again(self) -> None:
        try:
            self.begin()
        except ServiceError as error:
            log.error("%s is not started again: %s", self.id, error.message)

    def _stopped(self) -> ServiceError:
        return ShuttingDown() if self._closed else ModelStopped(self.id)

    def _show(self) -> None:
        self._admission.changed()
        self._changed(self)


def _now() -> float:
    return asyncio.get_running_loop().time()
