"""The states of a model and the moves between them: pure.

STOPPED -> STARTING -> READY -> STOPPING -> STOPPED
              |  \\______|________^ |
              |          |          |
              +----------+----------+--> FAILED -> STARTING
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum, StrEnum

from inference_service.errors import ServiceError


class State(StrEnum):
    """Where a model is in its life."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    FAILED = "failed"


class Phase(IntEnum):
    """What a model does while it is STARTING, in order; the numbers are those of the proto."""

    WAITING = 1
    PULLING_IMAGE = 2
    CREATING_CONTAINER = 3
    DOWNLOADING_WEIGHTS = 4
    LOADING_WEIGHTS = 5
    WARMING_UP = 6

    def __str__(self) -> str:
        return self.name.lower().replace("_", " ")


TRANSITIONS: dict[State, frozenset[State]] = {
    State.STOPPED: frozenset({State.STARTING}),
    State.STARTING: frozenset({State.READY, State.STOPPING, State.FAILED}),
    State.READY: frozenset({State.STOPPING, State.FAILED}),
    State.STOPPING: frozenset({State.STOPPED, State.FAILED}),
    State.FAILED: frozenset({State.STARTING}),
}


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a phase has come; counts are 0 and `fraction` None where nothing is known.

    `place` is that among the models that wait for memory, of which 1 is next; 0 in later phases.
    """

    phase: Phase
    completed: int = 0
    total: int = 0
    unit: str = ""
    fraction: float | None = None
    message: str = ""
    place: int = 0

    def after(self, last: Progress | None) -> Progress:
        """This, but never behind `last`: phases do not go back, and a fraction never falls."""
        if last is None or self.phase > last.phase:
            return self
        if self.phase < last.phase:
            return last
        if last.fraction is not None and (self.fraction or 0.0) < last.fraction:
            return replace(last, message=self.message)
        return self


@dataclass(frozen=True, slots=True)
class Status:
    """What a watcher sees. Times are Unix seconds; `since` is None until the first change.

    `fraction` is the share of the whole start that is done, and `remaining` the seconds until it is
    over; None where nothing is known of past starts.
    """

    state: State = State.STOPPED
    since: float | None = None
    started: float = 0.0
    progress: Progress | None = None
    fraction: float | None = None
    remaining: float | None = None
    failure: ServiceError | None = None
    retry_at: float | None = None
    container: str = ""
    port: int = 0

    def enter(self, state: State, now: float) -> Status:
        """The status on entering `state`; what belonged to the old state is gone."""
        if state not in TRANSITIONS[self.state]:
            raise AssertionError(f"{self.state} -> {state} is not a transition")
        kept = self if state is State.STOPPING else Status()
        started = now if state is State.STARTING else self.started
        return replace(
            kept,
            state=state,
            since=now,
            started=started,
            progress=None,
            fraction=None,
            remaining=None,
        )
