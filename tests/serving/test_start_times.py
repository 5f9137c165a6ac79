"""The times of starts: learnt, kept, and the forecast of a start that runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from inference_service.lifecycle import Phase, Progress
from inference_service.serving.start_times import Forecast, StartTimes

PAST = {Phase.CREATING_CONTAINER: [1.0, 1.0, 1.0], Phase.LOADING_WEIGHTS: [8.0, 9.0, 30.0]}


def started(times: StartTimes, *steps: tuple[float, Progress]) -> None:
    """Learn from a start; each step is a time and the progress that was reported then."""
    forecast = Forecast(times.past("m"), 0.0)
    for now, progress in steps:
        forecast.note(progress, now)
    forecast.note(None, 20.0)
    times.record("m", forecast.phases)


FIRST = (
    (0.0, Progress(Phase.WAITING, message="waits")),
    (1.0, Progress(Phase.PULLING_IMAGE, 5, 10, "bytes", 0.5)),
    (2.0, Progress(Phase.PULLING_IMAGE, 10, 10, "bytes", 1.0)),
    (3.0, Progress(Phase.CREATING_CONTAINER)),
    (4.0, Progress(Phase.DOWNLOADING_WEIGHTS, message="starts")),
    (5.0, Progress(Phase.DOWNLOADING_WEIGHTS, 1, 2, "files", 0.5)),
    (12.0, Progress(Phase.LOADING_WEIGHTS)),
)


def test_the_times_of_downloads_and_of_waits_are_not_learnt() -> None:
    times = StartTimes()
    started(times, *FIRST)

    assert times.past("m") == {Phase.CREATING_CONTAINER: [1.0], Phase.LOADING_WEIGHTS: [8.0]}
    assert times.past("another") == {}


def test_the_last_five_starts_are_kept_over_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "new" / "start-times.json"
    times = StartTimes(path)
    for seconds in range(7):
        times.record("m", {Phase.LOADING_WEIGHTS: float(seconds)})

    assert StartTimes(path).past("m") == {Phase.LOADING_WEIGHTS: [2.0, 3.0, 4.0, 5.0, 6.0]}
    assert list(path.parent.iterdir()) == [path]


def text(content: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(content)


def large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 30)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": text(""),
    "a list": text("[]"),
    "no phase": text('{"m": {"NO_PHASE": [1]}}'),
    "a number for a model": text('{"m": 3}'),
    "no time": text('{"m": {"LOADING_WEIGHTS": []}}'),
    "null": text('{"m": {"LOADING_WEIGHTS": null}}'),
    "a word": text('{"m": {"LOADING_WEIGHTS": ["1"]}}'),
    "true": text('{"m": {"LOADING_WEIGHTS": [true]}}'),
    "NaN": text('{"m": {"LOADING_WEIGHTS": [NaN]}}'),
    "Infinity": text('{"m": {"LOADING_WEIGHTS": [Infinity]}}'),
    "1e400": text('{"m": {"LOADING_WEIGHTS": [1e400]}}'),
    "1e300": text('{"m": {"LOADING_WEIGHTS": [1e300]}}'),
    "a huge number": text('{"m": {"LOADING_WEIGHTS": [1' + "0" * 5000 + "]}}"),
    "negative": text('{"m": {"LOADING_WEIGHTS": [-1]}}'),
    "cut": text('{"m": {"LOADING_WEIGHTS": [1.0'),
    "nested": text("[" * 200_000),
    "nested within": text('{"m": ' + '{"m": ' * 200_000),
    "zero": lambda path: path.write_bytes(b"\x00"),
    "no UTF-8": lambda path: path.write_bytes(b'{"\xff": {}}'),
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
    "a loop of links": lambda path: path.symlink_to(path.name),
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a gigabyte": large,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_set_aside_and_begun_anew(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "start-times.json"
    DAMAGE[damage](path)
    times = StartTimes(path)
    assert times.past("m") == {}
    (record,) = caplog.records
    assert "begun anew" in record.getMessage()
    assert str(path) in record.getMessage()
    assert len(record.getMessage()) < 500
    assert [each.name for each in tmp_path.iterdir()] == ["start-times.json.damaged"]

    times.record("m", {Phase.LOADING_WEIGHTS: 1.0})
    assert StartTimes(path).past("m") == {Phase.LOADING_WEIGHTS: [1.0]}
    assert len(caplog.records) == 1


def test_times_are_learnt_where_the_file_cannot_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    times = StartTimes(tmp_path / "file" / "start-times.json")
    times.record("m", {Phase.LOADING_WEIGHTS: 1.0})

    read, written = caplog.records
    assert "it stays" in read.getMessage()
    assert "not kept over a restart" in written.getMessage()
    assert times.past("m") == {Phase.LOADING_WEIGHTS: [1.0]}


def test_a_first_start_has_no_forecast() -> None:
    forecast = Forecast({}, 0.0)
    forecast.note(Progress(Phase.LOADING_WEIGHTS, fraction=0.5), 1.0)

    assert forecast.usual is None
    assert forecast.remaining(2.0) is None
    assert forecast.at_best(2.0) is None
    assert forecast.fraction(2.0) is None


def test_the_remaining_time_is_by_the_median_and_at_best_by_the_fastest() -> None:
    forecast = Forecast(PAST, 0.0)
    assert (forecast.usual, forecast.remaining(0.0), forecast.at_best(0.0)) == (10.0, 10.0, 9.0)

    forecast.note(Progress(Phase.CREATING_CONTAINER), 0.0)
    assert forecast.remaining(0.5) == 9.5
    forecast.note(Progress(Phase.LOADING_WEIGHTS), 1.0)
    assert (forecast.remaining(4.0), forecast.at_best(4.0)) == (6.0, 5.0)
    assert forecast.fraction(4.0) == 0.4
    assert forecast.remaining(60.0) == 0.0  # this start takes longer than all past ones
    assert forecast.fraction(60.0) == 1.0


def test_the_remaining_time_of_a_download_is_by_its_rate() -> None:
    forecast = Forecast(PAST, 0.0)
    forecast.note(Progress(Phase.PULLING_IMAGE, 25, 100, "bytes", 0.25), 0.0)

    assert forecast.remaining(10.0) == 30.0 + 10.0
    assert forecast.fraction(10.0) == 0.2


def test_a_wait_for_memory_has_no_forecast_and_does_not_count() -> None:
    forecast = Forecast(PAST, 0.0)
    forecast.note(Progress(Phase.WAITING, message="waits"), 0.0)
    assert forecast.remaining(50.0) is None
    assert forecast.at_best(50.0) == 9.0

    forecast.note(Progress(Phase.CREATING_CONTAINER), 100.0)
    assert forecast.fraction(101.0) == pytest.approx(0.1)


def test_the_fraction_never_falls_although_the_remaining_time_may_grow() -> None:
    forecast = Forecast(PAST, 0.0)
    forecast.note(Progress(Phase.PULLING_IMAGE, 90, 100, "bytes", 0.9), 0.0)
    high = forecast.fraction(90.0)
    assert high == pytest.approx(90 / 110)

    forecast.note(Progress(Phase.PULLING_IMAGE, 90, 1000, "bytes", 0.09), 91.0)
    assert (forecast.remaining(91.0) or 0) > 900
    assert forecast.fraction(91.0) == high
