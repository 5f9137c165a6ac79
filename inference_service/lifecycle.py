"""The states of a model and the transitions between them: pure.

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
    """The state of a model."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    FAILED = "failed"


class Phase(IntEnum):
    """The phases of a start, in order; the numbers are those of the proto."""

    WAITING = 1
    PULLING_IMAGE = 2
    CREATING_CONTAINER = 3
    DOWNLOADING_WEIGHTS = 4
    LOADING_WEIGHTS = 5
    WARMING_UP = 6

    def __str__(self) -> str:
        return self.name.lower().replace("_", " ")


@dataclass(frozen=True, slots=True)
class ToldPhase:
    """A phase in the words of errors. `creates` is `Runtime.creates`."""

    phase: Phase
    creates: str

    @property
    def name(self) -> str:
        return self.phase.name

    def __str__(self) -> str:
        return self.creates if self.phase is Phase.CREATING_CONTAINER else str(self.phase)


TRANSITIONS: dict[State, frozenset[State]] = {
    State.STOPPED: frozenset({State.STARTING}),
    State.STARTING: frozenset({State.READY, State.STOPPING, State.FAILED}),
    State.READY: frozenset({State.STOPPING, State.FAILED}),
    State.STOPPING: frozenset({State.STOPPED, State.FAILED}),
    State.FAILED: frozenset({State.STARTING}),
}


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of one phase; counts are 0 and `fraction` None where nothing is known.

    `queue_position` is that among the models that wait for memory, 1 is next; 0 in later phases.
    """

    phase: Phase
    completed: int = 0
    total: int = 0
    unit: str = ""
    fraction: float | None = None
    message: str = ""
    queue_position: int = 0

    def after(self, last: Progress | None) -> Progress:
        """Return this progress, but never behind `last`: no phase and no fraction goes back."""
        if last is None or self.phase > last.phase:
            return self
        if self.phase < last.phase:
            return last
        if last.fraction is not None and (self.fraction or 0.0) < last.fraction:
            return replace(last, message=self.message)
        return self


@dataclass(frozen=True, slots=True)
class Status:
    """The status that a watcher sees. Times are Unix seconds; `since` is None before any change.

    `fraction` is the share of the whole start that is done, and `remaining` the seconds until the
    start is over; None where nothing is known of past starts.
    """

    state: State = State.STOPPED
    since: float | None = None
    progress: Progress | None = None
    fraction: float | None = None
    remaining: float | None = None
    failure: ServiceError | None = None
    retry_at: float | None = None
    container: str = ""
    port: int = 0

    def enter(self, state: State, now: float) -> Status:
        """Return the status on entering `state`, without the facts of the old state."""
        if state not in TRANSITIONS[self.state]:
            raise AssertionError(f"{self.state} -> {state} is not a transition")
        kept = self if state is State.STOPPING else Status()
        return replace(
            kept,
            state=state,
            since=now,
            progress=None,
            fraction=None,
            remaining=None,
        )
