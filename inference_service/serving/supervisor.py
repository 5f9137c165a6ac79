"""The supervisor of one model's runs: begins them, owns their tasks, notes their ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Protocol

from inference_service.capacity.admission import Admission
from inference_service.errors import (
    ModelUnusable,
    RuntimeUnavailable,
    ServiceError,
    StartBackingOff,
    StartFailed,
    StartStalled,
    StillUnusable,
)
from inference_service.key import Key
from inference_service.lifecycle import Status
from inference_service.serving.back_off import BackOff
from inference_service.serving.entry import Entry
from inference_service.serving.report import Report
from inference_service.serving.revival import Revival
from inference_service.serving.run import Run
from inference_service.serving.runs import Runs, folded
from inference_service.serving.start_times import StartTimes
from inference_service.serving.timing import Timing

log = logging.getLogger(__name__)


class Supervised(Protocol):
    """A model, as the supervisor of its runs sees it."""

    @property
    def id(self) -> str:
        """The id in the catalog."""

    @property
    def entry(self) -> Entry:
        """The entry of the next runs."""

    def begin(self) -> None:
        """Start the model unless it runs. Raises ServiceError where it must not start."""

    def stopped(self) -> ServiceError:
        """Return the error of callers whose runs are stopped."""

    def show(self) -> None:
        """Note a change of what is shown."""


class Supervisor:
    """The owner of all runs of a model; a start makes `count` of them.

    `runs` are those that serve together now, None where nothing is left of any. `logged` is the
    last run that had an engine, because its log outlives it. `stops` counts the stops that found no
    run, after which nothing that waits for a start may begin one.
    """

    def __init__(
        self,
        model: Supervised,
        timing: Timing,
        admission: Admission,
        start_times: StartTimes,
        count: int,
    ) -> None:
        self.runs: Runs | None = None
        self.logged: Run | None = None
        self.stops = 0
        self.back_off = BackOff(
            timing.back_off, timing.back_off_longest, timing.healthy_spell, _now
        )
        self._revival = Revival(model, timing.back_off_longest)
        self._last: Run | None = None  # the one that ended last: its status outlives it
        self._model = model
        self._timing = timing
        self._admission = admission
        self._start_times = start_times
        self._count = count
        self._tasks: set[asyncio.Task[None]] = set()

    def status(self, of: Callable[[Run], Status]) -> Status:
        """Return the status of the model; `of` gives that of one run."""
        if self.runs is not None:
            return folded(map(of, self.runs))
        return Status() if self._last is None else of(self._last)

    def begin(self, numbers: Iterable[int] = (), *, adopts: bool = False) -> Runs:
        """Begin runs with these numbers, by default number 1; none is left of those before.

        Raises StartBackingOff, ModelUnusable, or InsufficientMemory for what can never fit.
        """
        self.refuse()
        self._revival.cancel()
        model = self._model
        runs = self.runs = Runs(model.id, self._timing, model.stopped)
        for number in [*numbers] or [1]:
            self._add(runs, number, adopts)
        runs.started.add_done_callback(lambda _: self._begin_more(runs))
        return runs

    def keep(self) -> None:
        """Begin runs of a model that has to run, or plan them. Raises what `begin` raises."""
        try:
            self._model.begin()
        except ServiceError as error:
            self._revive(error, error.retry_after or 0.0)
            raise

    def look(self) -> None:
        """Begin another entry, with which the model may start, as soon as the back-off is over."""
        if self._revival.due:
            self._revival.cancel()
            if self._model.entry.revives:
                self._revival.soon(self.back_off.left)

    def abandon(self) -> None:
        """Start the model no more without a caller."""
        self._revival.cancel()

    def forgive(self) -> None:
        """End the back-off after the last failure, if there is one: somebody stops the model."""
        self.stops += 1
        self.abandon()
        self.excuse()

    def excuse(self) -> None:
        """End the back-off after the last failure: another runtime need not have its cause."""
        self.back_off.forgive()
        if self._last is not None:
            self._last.report.forgiven()

    def refuse(self) -> None:
        """Raise what `begin` raises, and begin nothing."""
        model = self._model
        failure = self._last and self._last.report.status.failure
        if (wait := self.back_off.left) > 0 and failure:
            if isinstance(failure, ModelUnusable):
                raise StillUnusable(failure, wait)
            raise StartBackingOff(model.id, wait, failure)
        self._admission.plan(model.entry.demand(Key(model.id)))

    async def over(self) -> None:
        """Return when nothing is left of any run, and none follows."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _begin_more(self, runs: Runs) -> None:
        """Begin the further runs, once the first has fetched the weights that all of them need."""
        if self.runs is not runs:
            return
        while len(runs) < self._count and runs.serves:
            self._add(runs, runs.next_number, adopts=False)

    def _add(self, runs: Runs, number: int, adopts: bool) -> None:
        """Begin one of the runs."""
        key, entry = Key(self._model.id, number), self._model.entry
        report = Report(key, self._start_times, self._model.show)
        shared = (self._admission, self.back_off, self._timing)
        run = Run(key, entry, runs, report, *shared, adopts)
        runs.add(run)
        report.starting(entry)
        task = asyncio.create_task(self._own(runs, run), name=f"run of {key}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _own(self, runs: Runs, run: Run) -> None:
        """Own a run: the one task that ends it."""
        failure = await run.live()
        wait = 0.0
        runs.remove(run)
        if not runs:
            self.runs = None
        self._last = run
        if run.running is not None:
            self.logged = run
        if failure is None:
            self.back_off.forgive()
            run.report.stopped()
        else:
            wait = self.back_off.failed()
            if isinstance(failure, (StartFailed, StartStalled, RuntimeUnavailable)):
                failure.retry_after = wait
            run.report.failed(failure, wait)
        run.finish(failure)
        runs.finish(failure)
        if self.runs is not None:
            return
        if runs.replaced:
            self._begin_again()
        elif failure is not None and not run.leases.ended:  # else somebody has stopped it
            self._revive(failure, wait)

    def _begin_again(self) -> None:
        try:
            self.keep()
        except ServiceError as error:
            log.error("%s is not started again: %s", self._model.id, error.message)

    def _revive(self, failure: ServiceError, wait: float) -> None:
        if self._model.entry.revives:
            self._revival.after(failure, wait)


def _now() -> float:
    return asyncio.get_running_loop().time()
