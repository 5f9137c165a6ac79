"""What is known of one run now: its status, and the forecast of its start."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from inference_service.errors import ServiceError
from inference_service.key import Key
from inference_service.lifecycle import Phase, Progress, State, Status, ToldPhase
from inference_service.runtimes.base import Instance
from inference_service.serving.entry import Entry
from inference_service.serving.milestones import Milestones
from inference_service.serving.start_times import Forecast, StartTimes

log = logging.getLogger(__name__)


class Report:
    """The one writer of a run's status. `changed` is called after each change."""

    def __init__(self, key: Key, start_times: StartTimes, changed: Callable[[], None]) -> None:
        self.status = Status()
        self._key = key
        self._start_times = start_times
        self._changed = changed
        self._start_key = ""
        self._creates = ""
        self._milestones = Milestones()
        self._forecast = Forecast({}, 0.0)

    @property
    def phase(self) -> Phase:
        """The phase of a start."""
        return self.status.progress.phase if self.status.progress else Phase.WAITING

    @property
    def told_phase(self) -> ToldPhase:
        """The phase in the words of errors."""
        return ToldPhase(self.phase, self._creates)

    def now(self) -> Status:
        """Return the status with the forecast of this moment."""
        if self.status.state is not State.STARTING:
            return self.status
        return self._forecasted(self.status)

    def start_at_best(self) -> float | None:
        """Return the seconds that the present start takes at least; None when nothing is known."""
        return self._forecast.at_best(_now())

    def starting(self, entry: Entry) -> None:
        """Enter STARTING."""
        self._start_key, self._creates = entry.start_key, entry.runtime.creates
        self._milestones = Milestones(self._creates)
        self._forecast = Forecast(self._start_times.past(entry.start_key), _now())
        self._enter(State.STARTING)

    def progress(self, progress: Progress) -> bool:
        """Show the progress of a start; return whether the start has moved."""
        if self.status.state is not State.STARTING:
            return False
        progress = progress.after(self.status.progress)
        if progress == self.status.progress:
            return False
        if line := self._milestones.line(progress):
            log.info("%s: %s", self._key, line)
        self._show(replace(self.status, progress=progress))
        return True

    def ready(self, instance: Instance, *, learns: bool) -> None:
        """Enter READY, and learn from the start if it was a whole one."""
        self._forecast.note(None, _now())
        if learns:
            self._start_times.record(self._start_key, self._forecast.phases)
        self._enter(State.READY, container=instance.name, port=instance.port)

    def stopping(self) -> None:
        """Enter STOPPING, unless the run is in it."""
        if self.status.state is not State.STOPPING:
            self._enter(State.STOPPING)

    def stopped(self) -> None:
        """Enter STOPPED."""
        self._enter(State.STOPPED)

    def failed(self, failure: ServiceError, wait: float) -> None:
        """Enter FAILED; the next start may be made in `wait` seconds."""
        name = str(self._key)
        named = failure.message.startswith(name)
        log.error("%s", failure.message if named else f"{name}: {failure.message}")
        # What is shown is kept for long, and the frames in which this was raised hold open files.
        failure.__traceback__ = failure.__context__ = failure.__cause__ = None
        self._enter(State.FAILED, failure=failure, retry_at=time.time() + wait)

    def forgiven(self) -> None:
        """Show that the next start may be made now."""
        if self.status.retry_at is not None and self.status.retry_at > (now := time.time()):
            self._show(replace(self.status, retry_at=now))

    def _enter(self, state: State, **facts: Any) -> None:
        status = self.status.enter(state, time.time())
        if state is not State.FAILED:  # which has a line with its cause
            log.info("%s: %s", self._key, state)
        self._show(replace(status, **facts) if facts else status)

    def _show(self, status: Status) -> None:
        if status.state is State.STARTING:
            self._forecast.note(status.progress, _now())
            status = self._forecasted(status)
        self.status = status
        self._changed()

    def _forecasted(self, status: Status) -> Status:
        now = _now()
        fraction, remaining = self._forecast.fraction(now), self._forecast.remaining(now)
        return replace(status, fraction=fraction, remaining=remaining)


def _now() -> float:
    return asyncio.get_running_loop().time()
