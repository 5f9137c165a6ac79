"""The leases of one run: who uses it, until when, and how their use ends."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from inference_service.runtimes.base import Instance
from inference_service.serving.checks import Checks
from inference_service.serving.entry import Entry
from inference_service.serving.slots import Slots

log = logging.getLogger(__name__)

_CLOCK_WAS_SET = 1.0  # seconds by which the clocks of the loop and of the machine differ then


class WasCut(Exception):
    """The end of a block by the cut of its lease."""


class Cut:
    """The event that ends a lease before its holder does.

    A holder with a task makes its use a block `with lease.cut`, which the event ends with WasCut.
    Another one says by `then` what is to be done.
    """

    __slots__ = ("_act", "_task", "happened")

    def __init__(self) -> None:
        self.happened = False
        self._act: Callable[[], object] | None = None
        self._task: asyncio.Task[Any] | None = None

    def then(self, act: Callable[[], object]) -> None:
        """Call `act` at the event, which is still to come."""
        self._act = act

    def happen(self) -> None:
        """Be the event, once."""
        if not self.happened:
            self.happened = True
            if self._act is not None:
                self._act()

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        assert self._task is not None
        self._act = self._task.cancel

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        self._act = None
        # Else the holder has been cancelled too, or its block had another end at the same moment.
        if self.happened and not _uncancelled(self._task) and kind is asyncio.CancelledError:
            raise WasCut from None


def _uncancelled(task: asyncio.Task[Any] | None) -> int:
    """Take one cancel of a task back, and return how many are left."""
    assert task is not None, "a block has a task"
    return task.uncancel()


@dataclass(slots=True, eq=False)  # a frozen one takes three times as long to make
class Lease:
    """The right to use an instance, which was made from an entry.

    `checks` are those of the requests to it, and `cut` is the end of the right by a stop.
    """

    entry: Entry
    instance: Instance
    checks: Checks
    cut: Cut


class Leases:
    """The use of one run, its idle timer, and the drain at its end.

    `slots` are those of the model: while callers wait for them, the run is in use too.
    `idle_timeout` is the default, in seconds, for runs whose entry has none. `released` is called
    when the run has become unused, and `cut` when its drain has lasted for as long as it may. Times
    are on the clock of the loop.
    """

    def __init__(
        self,
        entry: Entry,
        slots: Slots[Any],
        idle_timeout: float,
        released: Callable[[], None],
        cut: Callable[[], None] = lambda: None,
    ) -> None:
        self.used_at = math.inf  # READY, or the end of the last use; never before READY
        self._entry = entry  # with the idle timeout that is in force
        self._default = idle_timeout
        self._released = released
        self._notify_cut = cut
        self._slots = slots
        self._clock = asyncio.get_running_loop().time
        self._out: set[Lease] = set()
        self._idle_timeout = entry.idle_timeout(idle_timeout)
        self.ended = False  # the run has to end
        self._cut_at = math.inf
        self._change = asyncio.Event()  # `over` and `drained` have to look again
        self._said = (math.inf, math.inf)  # an end of the idle timeout, on both clocks
        self._parked = False  # `over` waits without a timer, since the run is in use

    @property
    def count(self) -> int:
        """The number of leases."""
        return len(self._out)

    @property
    def in_use(self) -> bool:
        """Whether a caller has a lease, or waits for one."""
        return bool(self._out) or self._slots.wanted

    @property
    def idle_at(self) -> float:
        """The end of the idle timeout; never, while the run is in use."""
        return math.inf if self.in_use else self.used_at + self._idle_timeout

    @property
    def expire_time(self) -> float | None:
        """The end of the idle timeout in Unix seconds; None where that is never.

        It stays as it was first said, although two clocks are never read at the same moment, until
        the clock of the machine is set.
        """
        idle_at = self.idle_at
        if math.isinf(idle_at):
            return None
        expires = time.time() + idle_at - self._clock()
        at, said = self._said
        if at != idle_at or abs(said - expires) > _CLOCK_WAS_SET:
            self._said = (idle_at, expires)
        return self._said[1]

    def has(self, lease: Lease) -> bool:
        """Return whether a lease is out."""
        return lease in self._out

    def take(self, instance: Instance, checks: Checks) -> Lease:
        """Return a new lease, to be given back by `give`."""
        lease = Lease(self._entry, instance, checks, Cut())
        self._out.add(lease)
        return lease

    def give(self, lease: Lease) -> None:
        """Take a lease back."""
        self._out.discard(lease)
        self.check_released()

    def use(self, idle_timeout: float | None) -> None:
        """Note the end of a use, and the idle timeout after it (None: the entry's)."""
        if self.used_at < math.inf:  # else it counts from READY
            self.used_at = self._clock()
        self._set_idle_timeout(self._entry.idle_timeout(self._default, idle_timeout))

    def ready(self) -> None:
        """Start the idle timer."""
        self.used_at = self._clock()
        self._change.set()

    def replace_entry(self, entry: Entry) -> None:
        """Put the idle timeout of an equal entry into force."""
        self._entry = entry
        self._set_idle_timeout(entry.idle_timeout(self._default))

    def end(self, drain: float) -> None:
        """End the run when its leases are back, and cut them after `drain` seconds.

        A second call can only shorten the drain.
        """
        self.ended = True
        self._cut_at = min(self._cut_at, self._clock() + drain)
        self._change.set()

    async def over(self) -> None:
        """Return when the run has to end, by a call of `end` or unused."""
        while not self.ended:
            self._change.clear()
            self._parked = self.in_use
            try:
                async with asyncio.timeout_at(self.idle_at):
                    await self._change.wait()
            except TimeoutError:
                # A use does not move the timer, which would cost each request: so it may be early.
                if self.idle_at <= self._clock():
                    log.info("%s: idle", self._entry.spec.id)
                    self.end(0)

    async def drained(self) -> None:
        """Return when all leases are back, by themselves or cut, and no request is queued."""
        while self._out or self._slots.queued:
            self._change.clear()
            try:
                async with asyncio.timeout_at(self._cut_at):
                    await self._change.wait()
            except TimeoutError:
                self._cut()
                self._cut_at = math.inf

    def _cut(self) -> None:
        self._notify_cut()
        for lease in [*self._out]:
            lease.cut.happen()

    def check_released(self) -> None:
        """Look whether the run has become unused."""
        if self.ended:
            self._change.set()
        if not self.in_use:
            self._released()
            if self._parked:
                self._change.set()

    def _set_idle_timeout(self, seconds: float) -> None:
        if seconds != self._idle_timeout:
            self._idle_timeout = seconds
            self._change.set()
