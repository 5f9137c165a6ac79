"""The runs of one model that serve together, and the queue for them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Protocol, TypeVar

from inference_service.errors import DeadlineTooShort, QueueTimeout, ServiceError, StopFailed
from inference_service.lifecycle import State, Status
from inference_service.serving.leases import Lease
from inference_service.serving.run import Run
from inference_service.serving.slots import Slots
from inference_service.serving.timing import Timing

# From the state that is the nearest to serving to the one that is the furthest from it.
_NEARNESS = (State.READY, State.STARTING, State.STOPPING, State.FAILED, State.STOPPED)


class Candidate(Protocol):
    """A run, as far as the choice between runs goes."""

    @property
    def free(self) -> bool:
        """Whether it takes one more request now."""

    @property
    def busy(self) -> int:
        """The requests that it works on."""


Chosen = TypeVar("Chosen", bound=Candidate)


def choose(runs: Iterable[Chosen]) -> Chosen | None:
    """Return the least busy run that is free, the first of equals; None where none is."""
    chosen = None
    for run in runs:
        if run.free and (chosen is None or run.busy < chosen.busy):
            chosen = run
    return chosen


def folded(statuses: Iterable[Status]) -> Status:
    """Return the status of a model: READY if a run is, else that of the run that is furthest.

    Of two starts the one with the later phase, and then with the larger fraction, is further.
    """
    return min(statuses, key=_distance)


def _distance(status: Status) -> tuple[int, float, float]:
    progress = status.progress
    phase = progress.phase if progress else 0
    return _NEARNESS.index(status.state), -phase, -(status.fraction or 0.0)


class Runs:
    """The runs of one model that serve together, and the queue for them.

    All of them are stopped together; a run that ends by itself leaves the others. `started` is done
    when one of them is READY, or with the error that kept all of them from that; `gone` when
    nothing is left of any, with StopFailed where something is. `stopped` makes the error of callers
    whose runs are stopped.
    """

    def __init__(self, model_id: str, timing: Timing, stopped: Callable[[], ServiceError]) -> None:
        loop = asyncio.get_running_loop()
        self.started: asyncio.Future[None] = loop.create_future()
        self.gone: asyncio.Future[None] = loop.create_future()
        self.replaced = False  # other runs follow, with another entry
        self.slots: Slots[tuple[Run, Lease]] = Slots(
            model_id,
            self._take_free,
            self._give_back,
            timing.queue_size,
            heartbeat=timing.heartbeat,
            released=self._released,
        )
        self._model_id = model_id
        self._stopped = stopped
        self._runs: dict[int, Run] = {}
        self._waits: set[asyncio.Timeout] = set()  # those of the requests in the queue
        self._longest_wait = timing.queue_wait
        self._was_cut = False
        self._failure: StopFailed | None = None
        for future in (self.started, self.gone):  # an error that nobody waits for is in the log
            future.add_done_callback(lambda done: done.cancelled() or done.exception())

    def __iter__(self) -> Iterator[Run]:
        """Iterate over the runs, by their numbers."""
        return iter([self._runs[number] for number in sorted(self._runs)])

    def __len__(self) -> int:
        return len(self._runs)

    @property
    def next_number(self) -> int:
        """The lowest number that is free."""
        return next(n for n in range(1, len(self._runs) + 2) if n not in self._runs)

    @property
    def serves(self) -> bool:
        """Whether one of them can be used, now or when it is ready."""
        return any(run.serves for run in self._runs.values())

    @property
    def ended(self) -> bool:
        """Whether all of them have to end."""
        return all(run.leases.ended for run in self._runs.values())

    def refuse_late(self, deadline: float) -> None:
        """Raise DeadlineTooShort if this start will take too long; the start goes on."""
        if math.isinf(deadline):
            return
        wait, left = self._start_at_best(), deadline - asyncio.get_running_loop().time()
        if wait is not None and wait > left:
            raise DeadlineTooShort(self._model_id, left, wait, "it is starting")

    def _start_at_best(self) -> float | None:
        """Return the seconds until the first is ready at best; None when nothing is known."""
        waits = [run.report.start_at_best() for run in self._runs.values()]
        return min((wait for wait in waits if wait is not None), default=None)

    def end(self, drain: float, *, replaced: bool = False) -> None:
        """End all runs after a drain of at most so many seconds; `replaced`: others follow."""
        self.replaced = replaced
        for run in self._runs.values():
            run.end(drain)

    @asynccontextmanager
    async def queued(self) -> AsyncGenerator[None]:
        """Hold a request in the queue, until the cut of a drain ends its wait, or it is too long.

        Raises what `stopped` makes, or QueueTimeout.
        """
        cut = asyncio.timeout(self._longest_wait if math.isfinite(self._longest_wait) else None)
        self._waits.add(cut)
        try:
            async with cut:
                yield
        except TimeoutError:
            if not cut.expired():
                raise
            if self._was_cut:
                raise self._stopped() from None
            raise QueueTimeout(self._model_id, self._longest_wait) from None
        finally:
            self._waits.discard(cut)

    def refuse_what_cannot_fit(self, prompt: str) -> None:
        """Raise PromptTooLong for a prompt that no run has room for."""
        for run in self._runs.values():
            if run.serves and run.running is not None:
                return run.refuse_what_cannot_fit(prompt)

    def give(self, run: Run, lease: Lease, idle_timeout: float | None) -> None:
        """Take a lease back, which was a use of all runs, and serve the queue."""
        for each in self._runs.values():
            each.leases.use(idle_timeout)
        run.give(lease, self.slots.serve)
        self.slots.serve()

    def release(self, lease: Lease, idle_timeout: float | None) -> None:
        """Take back a lease that one of them may have given, and serve the queue."""
        for run in self._runs.values():
            if run.leases.has(lease):
                self.give(run, lease, idle_timeout)
                return

    def use(self, idle_timeout: float | None) -> None:
        """Note a use of all runs without a lease."""
        for run in self._runs.values():
            run.leases.use(idle_timeout)

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """Keep the runs in use while a request waits for the fate of its engine."""
        with self.slots.waiting():
            try:
                yield
            finally:
                self.use(None)

    # What its supervisor does with a run.

    def add(self, run: Run) -> None:
        """Add a run."""
        self._runs[run.key.number] = run

    def remove(self, run: Run) -> None:
        """Remove a run of which nothing is left."""
        del self._runs[run.key.number]

    def finish(self, failure: ServiceError | None) -> None:
        """Answer those who wait, after the end of a run; if it was not the last, do nothing."""
        if isinstance(failure, StopFailed):
            self._failure = failure
        if self._runs:
            return
        error = failure or self._stopped()
        self._refuse(error)
        self.slots.close(error)
        if self._failure is not None:
            self.gone.set_exception(self._failure)
        else:
            self.gone.set_result(None)

    # What a run says to its peers.

    def ready(self) -> None:
        if not self.started.done():
            self.started.set_result(None)

    def stops(self) -> None:
        if self.ended:
            self._refuse(self._stopped())

    def died(self, error: ServiceError) -> None:
        if not self.serves:
            self.slots.close(error)

    def cut(self) -> None:
        self._was_cut = True
        self.slots.close(self._stopped())
        now = asyncio.get_running_loop().time()
        for wait in self._waits:
            if not wait.expired():
                wait.reschedule(now)

    def _refuse(self, error: ServiceError) -> None:
        if not self.started.done():
            self.started.set_exception(error)

    # What the slots need.

    def _take_free(self) -> tuple[Run, Lease] | None:
        run = choose(self._runs.values())
        return None if run is None else (run, run.take())

    def _give_back(self, taken: tuple[Run, Lease]) -> None:
        run, lease = taken
        run.leases.give(lease)

    def _released(self) -> None:
        for run in self._runs.values():
            run.leases.check_released()


class Taken:
    """A lease that was there without a wait, with the run whose it is."""

    __slots__ = ("_run", "_runs", "lease")

    def __init__(self, runs: Runs, run: Run, lease: Lease) -> None:
        self.lease = lease
        self._runs = runs
        self._run = run

    def give(self) -> None:
        """Give the lease back."""
        self._runs.give(self._run, self.lease, None)
