"""One model for its callers: leases, starts and stops, whatever runs serve them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing, asynccontextmanager

from inference_service.capacity.admission import Admission
from inference_service.capacity.claims import Quote
from inference_service.errors import (
    ModelRemoved,
    ModelStopped,
    NotRunning,
    ServiceError,
    ShuttingDown,
)
from inference_service.key import Key
from inference_service.lifecycle import Status
from inference_service.runtimes.base import Instance
from inference_service.serving.changes import Changes, Notify
from inference_service.serving.entry import Entry
from inference_service.serving.leases import Lease, WasCut
from inference_service.serving.queue import Caller
from inference_service.serving.run import Run
from inference_service.serving.runs import Runs, Taken
from inference_service.serving.snapshot import snapshot
from inference_service.serving.start import pauses
from inference_service.serving.start_times import Forecast, StartTimes
from inference_service.serving.supervisor import Supervisor
from inference_service.serving.timing import Timing
from inference_service.serving.view import View

Look = Callable[[], Awaitable[None]]  # for a runtime that is missing


class Model:
    """A model of the catalog; `entry` is that of the next runs, of which a start makes `count`.

    Callers do not act on a status: they ask for a lease, a start or a stop, and get a fact.
    `changed` is called after each change of what is shown. `look` is awaited before a start whose
    runtime is not there: it looks for the runtime, and may `move` the model there.
    """

    def __init__(
        self,
        entry: Entry,
        timing: Timing,
        admission: Admission,
        start_times: StartTimes,
        changed: Callable[[Model], None] = lambda _: None,
        count: int = 1,
        look: Look | None = None,
    ) -> None:
        self.id = entry.spec.id
        self._entry = entry
        self._next: Entry | None = None  # in force when nothing is left of the present runs
        self._look = look
        self.changes = Changes(self.now)
        self._start_times = start_times
        self._timing = timing
        self._admission = admission
        self._changed = changed
        self._supervisor = Supervisor(self, timing, admission, start_times, count)
        self._closed = False
        self._removed = False

    @property
    def entry(self) -> Entry:
        """The entry of the next runs, or of the present ones where these stay where they are."""
        if self._next is not None and not self.runs:
            self._entry, self._next = self._next, None
        return self._entry

    @property
    def runs(self) -> bool:
        """Whether anything of a run is there."""
        return self._supervisor.runs is not None

    @property
    def status(self) -> Status:
        """The status at the last change."""
        return self._supervisor.status(lambda run: run.report.status)

    def now(self) -> Status:
        """Return the status with the forecast of this moment."""
        return self._supervisor.status(lambda run: run.report.now())

    @property
    def gone(self) -> bool:
        """Whether the model was removed from the catalog, and nothing of it is left."""
        return self._removed and self._supervisor.runs is None

    @property
    def contended(self) -> bool:
        """Whether others wait: for a slot of this model, or for memory for another."""
        runs = self._supervisor.runs
        return (runs is not None and runs.slots.queued > 0) or self._admission.waiting

    @property
    def usual_start(self) -> float | None:
        """The usual seconds of a start, by past ones; None when there were none."""
        return Forecast(self._start_times.past(self.entry.start_key), 0.0).usual

    def view(self) -> View:
        """Return the model as it is now."""
        return snapshot(self.entry, self._supervisor.runs, self.now(), self._admission)

    def quote(self) -> Quote:
        """Return what a start would claim. Raises InsufficientMemory when it can never fit."""
        return self._admission.quote(self.entry.demand(Key(self.id)))

    @asynccontextmanager
    async def lease(
        self,
        idle_timeout: float | None = None,
        caller: Caller = (),
        deadline: float = math.inf,
        notify: Notify | None = None,
        prompt: str = "",
    ) -> AsyncGenerator[Lease]:
        """Hold the model in READY, after a start if needed, and one slot.

        `idle_timeout` (seconds) is in force after this lease until the next one; None is the
        entry's. Slots go round robin between callers. `deadline` is the moment at which the caller
        gives up, on the clock of the loop. `notify` is awaited at first, at each change, and after
        each `heartbeat`, until the lease is held. The block ends with ModelStopped when a stop has
        waited for as long as it may. A `prompt` that cannot fit is refused without a slot.
        """
        runs = await self._ready(deadline, notify)
        try:
            runs.refuse_what_cannot_fit(prompt)
            run, lease = await self._slot(runs, caller, deadline, notify)
            try:
                with lease.cut:
                    yield lease
            except WasCut:
                raise self.stopped() from None
            finally:
                runs.give(run, lease, idle_timeout)
        except ServiceError as error:
            error.metadata.setdefault("model_id", self.id)
            raise

    def take_now(self) -> Taken | None:
        """Return a lease that needs no wait, which its holder gives back; None where there is none.

        Its holder has to look after its `cut`, and nothing else ends it.
        """
        runs = self._supervisor.runs
        if runs is None or self._closed or self._removed or runs.replaced:
            return None
        if not (runs.started.done() and runs.serves):
            return None
        free = runs.slots.take_now()
        return None if free is None else Taken(runs, *free)

    def release(self, lease: Lease, idle_timeout: float | None) -> None:
        """Take a lease back before the end of its block: its holder needs the engine no more."""
        if (runs := self._supervisor.runs) is not None:
            runs.release(lease, idle_timeout)

    async def start(self, idle_timeout: float | None = None) -> None:
        """Return when the model is READY. Raises what a lease would, and counts as a use."""
        (await self._ready()).use(idle_timeout)

    def begin(self) -> None:
        """Start the model unless it runs, and return at once. Raises what is known already."""
        self._refuse()
        if self._supervisor.runs is None:
            self._supervisor.begin()

    def keep(self) -> None:
        """Do as `begin`; where that is refused, try again by itself until a stop."""
        self._refuse()
        if self._supervisor.runs is None:
            self._supervisor.keep()

    async def seek(self) -> None:
        """Look for the runtime that a start would need, where it is missing."""
        if self._look is not None and not self.runs and not self.entry.reachable:
            await self._look()

    def refusal(self) -> ServiceError | None:
        """Return what `begin` would raise; None where a call is served, or starts the model."""
        try:
            self._refuse()
            if self._supervisor.runs is None:
                self._supervisor.refuse()
        except ServiceError as error:
            return error
        return None

    def adopt(self, numbers: Iterable[int]) -> None:
        """Begin the runs whose engines run already, under these numbers. Raises as `begin`."""
        self._refuse()
        self._supervisor.begin(numbers, adopts=True)

    async def recovered(self, instance: Instance | None = None) -> None:
        """Return when the fate of an engine that broke off a request is known.

        That is when the engine answers again, when another one serves, or when another may be
        started. `instance` is that of the engine; None for one that the request had not reached.
        Raises ModelStopped when somebody stops the model.
        """
        stops = self._supervisor.stops
        for pause in pauses(self._timing):
            if (runs := self._supervisor.runs) is None:
                break
            if runs.ended:
                raise self.stopped()
            run = next((run for run in runs if instance and run.serves_at(instance)), None)
            if run is None and runs.serves:
                return
            run = run or next(iter(runs))
            with runs.awaited():
                if run.serves and await run.answers():
                    return
                await asyncio.wait([run.gone], timeout=pause)  # the runtime reports its death
        await asyncio.sleep(max(0.0, self._supervisor.back_off.left))
        if self._supervisor.stops != stops:
            raise self.stopped()

    async def stop(self, drain: float | None = None) -> None:
        """Drain and end the model; return when nothing is left of it.

        `drain` is in seconds; None is the setting. Raises NotRunning, after which a model that has
        failed may start at once, or StopFailed when something could not be removed yet.
        """
        if (runs := self._supervisor.runs) is None:
            self._supervisor.forgive()
            raise NotRunning(self.id)
        runs.end(self._timing.drain if drain is None else drain)
        await asyncio.shield(runs.gone)

    async def logs(self, last: int, follow: bool) -> AsyncGenerator[str]:
        """Yield the last lines of the present or last engine, then new ones to follow.

        Raises NotRunning when the model has never been started.
        """
        present, logged = self._supervisor.runs or (), self._supervisor.logged
        runs = [run for run in (*present, logged) if run and run.running]
        if not runs or (running := runs[0].running) is None:
            raise NotRunning(self.id)
        if not follow:
            for line in running.tail(last):
                yield line
            return
        async with aclosing(running.logs(last)) as lines:
            async for line in lines:
                yield line

    def move(self, entry: Entry) -> None:
        """Take the entry of a runtime that was found, for the next runs; present ones stay."""
        other, self._next = entry != self._entry, entry
        if other and not self.runs:
            self._supervisor.excuse()
            self._supervisor.look()
        self.show()

    def change(self, entry: Entry) -> bool:
        """Take another entry of the catalog; return whether that restarts the model.

        An equal entry is in force at once. Any other drains a run, and begins the next.
        """
        runs = self._supervisor.runs
        self._removed = False
        self._entry, self._next = entry, None
        if runs is not None and runs.ended:  # its drain was asked for by another
            return runs.replaced
        if runs is not None and any(run.entry != entry for run in runs):
            runs.end(self._timing.drain, replaced=True)
            return True
        for run in runs or ():
            run.replace_entry(entry)
        self._supervisor.look()
        self.show()
        return False

    def remove(self) -> None:
        """Take the model out of the catalog: refuse callers, drain and stop."""
        self._removed = True
        self._supervisor.abandon()
        if self._supervisor.runs is not None:
            self._supervisor.runs.end(self._timing.drain)
        else:
            self.show()

    async def close(self, drain: float) -> None:
        """Refuse callers from now on, and stop. Never raises."""
        self._closed = True
        self._supervisor.abandon()
        if self._supervisor.runs is not None:
            self._supervisor.runs.end(drain)
        await self._supervisor.over()

    # Getting to READY.

    async def _ready(self, deadline: float = math.inf, notify: Notify | None = None) -> Runs:
        """Return runs of which one is READY at this moment: no await may follow in the caller."""
        heartbeat = self._timing.heartbeat
        while True:
            await self.seek()
            self._refuse()
            runs = self._supervisor.runs or self._supervisor.begin()
            if runs.serves:
                if not runs.started.done():
                    runs.refuse_late(deadline)
                    with runs.slots.waiting():
                        await self.changes.until(runs.started, notify, heartbeat)
                if not runs.replaced:
                    runs.started.result()
                    if runs.serves:
                        return runs
            await self.changes.until(runs.gone, notify, heartbeat)

    async def _slot(
        self, runs: Runs, caller: Caller, deadline: float, notify: Notify | None
    ) -> tuple[Run, Lease]:
        """Return a lease on one of the runs, after a wait in their queue if need be."""
        if (free := runs.slots.take_now()) is not None:
            return free

        async def report_position(position: int) -> None:
            assert notify is not None
            await notify(self.status, position)

        async with runs.queued():
            return await runs.slots.take(caller, deadline, notify and report_position)

    def _refuse(self) -> None:
        if self._closed:
            raise ShuttingDown
        if self._removed:
            raise ModelRemoved(self.id)

    # What its supervisor asks.

    def stopped(self) -> ServiceError:
        return ShuttingDown() if self._closed else ModelStopped(self.id)

    def show(self) -> None:
        self.changes.note()
        self._admission.changed()
        self._changed(self)
