"""The states of a model, and the progress of a start."""

from __future__ import annotations

import dataclasses
import itertools
import random

import pytest

from inference_service.errors import StartFailed
from inference_service.lifecycle import Phase, Progress, State, Status
from inference_service.v1 import model_service_pb2 as pb

ALLOWED = {
    (State.STOPPED, State.STARTING),
    (State.STARTING, State.READY),
    (State.STARTING, State.STOPPING),
    (State.STARTING, State.FAILED),
    (State.READY, State.STOPPING),
    (State.READY, State.FAILED),
    (State.STOPPING, State.STOPPED),
    (State.STOPPING, State.FAILED),
    (State.FAILED, State.STARTING),
}


@pytest.mark.parametrize(("old", "new"), sorted(ALLOWED))
def test_these_transitions_are_allowed(old: State, new: State) -> None:
    status = Status(old, since=1.0).enter(new, 2.0)

    assert (status.state, status.since) == (new, 2.0)


@pytest.mark.parametrize(("old", "new"), sorted(set(itertools.product(State, State)) - ALLOWED))
def test_no_other_transition_is_allowed(old: State, new: State) -> None:
    with pytest.raises(AssertionError, match=f"{old} -> {new} is not a transition"):
        Status(old).enter(new, 2.0)


FULL = Status(
    since=1.0,
    progress=Progress(Phase.WARMING_UP),
    failure=StartFailed("tiny", Phase.PULLING_IMAGE, "no"),
    retry_at=9.0,
    container="tgi-tiny",
    port=8080,
)


@pytest.mark.parametrize(("old", "new"), sorted(ALLOWED))
def test_a_status_loses_the_facts_of_the_old_state(old: State, new: State) -> None:
    status = dataclasses.replace(FULL, state=old).enter(new, 2.0)

    assert (status.since, status.progress) == (2.0, None)
    if new is State.STOPPING:  # the container is there until the next state
        assert (status.container, status.port) == ("tgi-tiny", 8080)
    else:
        assert (status.container, status.port) == ("", 0)
        assert (status.failure, status.retry_at) == (None, None)


def test_the_phases_are_those_of_the_proto() -> None:
    named = {f"START_PHASE_{phase.name}": int(phase) for phase in Phase}

    assert named | {"START_PHASE_UNSPECIFIED": 0} == dict(pb.StartPhase.items())


def test_a_phase_is_shown_in_words() -> None:
    assert str(Phase.DOWNLOADING_WEIGHTS) == "downloading weights"
    assert f"{Phase.WAITING}" == "waiting"


PULLING, LOADING = Phase.PULLING_IMAGE, Phase.LOADING_WEIGHTS


@pytest.mark.parametrize(
    ("last", "new", "shown"),
    [
        pytest.param(None, Progress(PULLING), Progress(PULLING), id="the first"),
        pytest.param(
            Progress(PULLING, fraction=0.9), Progress(LOADING), Progress(LOADING), id="next phase"
        ),
        pytest.param(
            Progress(LOADING, message="a"),
            Progress(PULLING, fraction=1.0),
            Progress(LOADING, message="a"),
            id="a phase that is over",
        ),
        pytest.param(
            Progress(PULLING, fraction=0.2),
            Progress(PULLING, 5, fraction=0.3),
            Progress(PULLING, 5, fraction=0.3),
            id="further",
        ),
        pytest.param(
            Progress(PULLING, fraction=0.3),
            Progress(PULLING, 7, fraction=0.2, message="b"),
            Progress(PULLING, fraction=0.3, message="b"),
            id="a smaller fraction of more",
        ),
        pytest.param(
            Progress(PULLING, fraction=0.3),
            Progress(PULLING, message="b"),
            Progress(PULLING, fraction=0.3, message="b"),
            id="a fraction that is not known",
        ),
        pytest.param(
            Progress(PULLING),
            Progress(PULLING, message="b"),
            Progress(PULLING, message="b"),
            id="no fraction at any time",
        ),
    ],
)
def test_progress_never_falls(last: Progress | None, new: Progress, shown: Progress) -> None:
    assert new.after(last) == shown


def test_random_progress_never_falls() -> None:
    chance = random.Random(1)
    last: Progress | None = None
    for _ in range(5000):
        phase = chance.choices(list(Phase), weights=[100, 50, 20, 5, 2, 1])[0]
        new = Progress(phase, fraction=chance.choice([None, chance.random()])).after(last)
        if last is not None:
            assert new.phase >= last.phase
            if new.phase == last.phase and last.fraction is not None:
                assert new.fraction is not None
                assert new.fraction >= last.fraction
        last = new
