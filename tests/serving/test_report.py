"""The one writer of a status: what it takes, what it shows, and whom it notifies."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace

import pytest

from inference_service.errors import LaunchError, ShuttingDown, StartFailed
from inference_service.key import Key
from inference_service.lifecycle import Phase, Progress, State, Status
from inference_service.serving.entry import Entry
from inference_service.serving.report import Report
from inference_service.serving.start_times import StartTimes
from tests.fakes import FakeEngine, FakeRunning, FakeRuntime, spec

FAILURE = StartFailed("tiny", Phase.PULLING_IMAGE, "no")


class Bed:
    """A report on one model, and each status that it has shown."""

    def __init__(self) -> None:
        self.entry = Entry.of(spec(), FakeRuntime(), FakeEngine())
        self.start_times = StartTimes()
        self.report = Report(Key("tiny"), self.start_times, self._changed)
        self.shown: list[Status] = []

    def _changed(self) -> None:
        self.shown.append(self.report.status)

    def ready(self, *, learns: bool = True) -> None:
        self.report.ready(FakeRunning("tgi-tiny", 8080).instance, learns=learns)

    @property
    def states(self) -> list[State]:
        return [status.state for status in self.shown]


async def test_a_start_and_its_end_are_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "inference_service")
    bed = Bed()
    bed.report.starting(bed.entry)
    bed.report.progress(Progress(Phase.CREATING_CONTAINER))
    bed.report.progress(Progress(Phase.DOWNLOADING_WEIGHTS, 1, 2, "files", 0.5))
    bed.ready()
    bed.report.stopping()
    bed.report.stopped()
    bed.report.starting(bed.entry)
    bed.report.failed(FAILURE, 1)

    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("INFO", "tiny: starting"),
        ("INFO", "tiny: starting the container"),
        ("INFO", "tiny: downloading weights 50 %"),
        ("INFO", "tiny: ready"),
        ("INFO", "tiny: stopping"),
        ("INFO", "tiny: stopped"),
        ("INFO", "tiny: starting"),
        ("ERROR", FAILURE.message),  # which begins with the name
    ]


async def test_each_change_is_shown_with_the_facts_of_its_state() -> None:
    bed = Bed()
    report = bed.report
    report.starting(bed.entry)
    bed.ready()
    report.stopping()
    report.stopped()
    report.starting(bed.entry)
    before = time.time()
    report.failed(FAILURE, 30)

    assert bed.states == [
        State.STARTING,
        State.READY,
        State.STOPPING,
        State.STOPPED,
        State.STARTING,
        State.FAILED,
    ]
    assert (bed.shown[1].container, bed.shown[1].port) == ("tgi-tiny", 8080)
    assert report.status.failure is FAILURE
    assert before + 30 <= (report.status.retry_at or 0) <= time.time() + 30


async def test_a_model_that_is_stopping_is_shown_once() -> None:
    bed = Bed()
    bed.report.starting(bed.entry)
    bed.report.stopping()
    bed.report.stopping()

    assert bed.states == [State.STARTING, State.STOPPING]


async def test_a_start_moves_when_its_progress_does() -> None:
    bed = Bed()
    report = bed.report
    report.starting(bed.entry)
    half = Progress(Phase.PULLING_IMAGE, 1, 2, "bytes", 0.5)

    assert report.progress(half)
    shown = len(bed.shown)
    assert not report.progress(half)
    assert not report.progress(replace(half, completed=0, fraction=0.1))
    assert not report.progress(Progress(Phase.WAITING))
    assert len(bed.shown) == shown
    assert report.status.progress == half
    assert report.progress(Progress(Phase.LOADING_WEIGHTS))
    assert report.phase is Phase.LOADING_WEIGHTS


async def test_a_failure_that_is_shown_keeps_no_frames() -> None:
    """They would keep open what their variables are, such as the socket of a call."""
    bed = Bed()
    bed.report.starting(bed.entry)
    try:
        raise LaunchError("no")
    except LaunchError:
        try:
            raise ShuttingDown
        except ShuttingDown as failure:
            bed.report.failed(failure, 1)

    shown = bed.report.status.failure
    assert shown is not None
    assert (shown.__traceback__, shown.__context__, shown.__cause__) == (None, None, None)


async def test_progress_after_the_start_is_none() -> None:
    bed = Bed()
    bed.report.starting(bed.entry)
    bed.report.progress(Progress(Phase.LOADING_WEIGHTS))
    for enter in (bed.ready, bed.report.stopping, bed.report.stopped):
        enter()
        shown = len(bed.shown)
        assert not bed.report.progress(Progress(Phase.WARMING_UP))
        assert bed.report.status.progress is None
        assert len(bed.shown) == shown


async def test_a_start_teaches_how_long_its_phases_take() -> None:
    bed = Bed()
    for learns in (False, True):
        bed.report.starting(bed.entry)
        for phase in (Phase.WAITING, Phase.CREATING_CONTAINER, Phase.LOADING_WEIGHTS):
            bed.report.progress(Progress(phase))
        bed.ready(learns=learns)
        bed.report.stopping()
        bed.report.stopped()
        if not learns:
            assert bed.start_times.past(bed.entry.start_key) == {}

    past = bed.start_times.past(bed.entry.start_key)
    assert {phase: len(took) for phase, took in past.items()} == {
        Phase.CREATING_CONTAINER: 1,
        Phase.LOADING_WEIGHTS: 1,
    }


async def test_a_start_teaches_and_is_forecast_for_its_own_entry() -> None:
    bed = Bed()
    other = replace(bed.entry, command=replace(bed.entry.command, image="another"))
    bed.start_times.record(other.start_key, {Phase.LOADING_WEIGHTS: 50.0})
    bed.report.starting(bed.entry)
    assert bed.report.start_at_best() is None
    bed.report.failed(FAILURE, 0)

    bed.report.starting(other)
    assert bed.report.start_at_best() == 50
    bed.report.progress(Progress(Phase.WARMING_UP))
    bed.ready()

    assert bed.start_times.past(bed.entry.start_key) == {}
    assert Phase.WARMING_UP in bed.start_times.past(other.start_key)


async def test_the_forecast_of_a_start_is_that_of_the_moment() -> None:
    bed = Bed()
    bed.start_times.record(bed.entry.start_key, {Phase.LOADING_WEIGHTS: 50.0})
    bed.report.starting(bed.entry)
    bed.report.progress(Progress(Phase.LOADING_WEIGHTS))
    first = bed.report.status
    await asyncio.sleep(0.01)
    now = bed.report.now()

    assert 0 < (now.remaining or 0) < (first.remaining or 0) <= 50
    assert (now.fraction or 0) > (first.fraction or 0)
    assert bed.report.status is first
    bed.ready()
    assert bed.report.now() is bed.report.status
