"""Tests of new against old: the folder, the order of a round, the verdicts."""

from __future__ import annotations

import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import __main__, against
from benchmarks.against import PLAN, Line, Part
from benchmarks.load import Work
from benchmarks.rounds import UNARY, Figures, Round

PART = Part(Work("some work", 1, 16, streamed=False), ("cpu_us_per_request",), 0, 0)
ZERO = Figures(*[0.0] * 9)


def rounds(figure: str = "cpu_us_per_request", **values: list[float]) -> list[Round]:
    """Return rounds with these values of each service; others have 100."""
    count = len(next(iter(values.values())))
    names = [name.replace("-", "_") for name in against.order(0)]
    columns = {name: values.get(name, [100.0] * count) for name in names}
    return [
        {
            name.replace("_", "-"): replace(ZERO, **{figure: column[number]})
            for name, column in columns.items()
        }
        for number in range(count)
    ]


def grpc(measured: list[Round], figure: str = "cpu_us_per_request") -> Line:
    return against.lines(replace(PART, figures=(figure,)), measured)[0]


def test_a_checkout_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(against.NEW.parent)

    assert against.checkout(against.NEW.name) == against.NEW


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (["--against", "nowhere"], "there is no folder nowhere"),
        (["--against", "{empty}"], "it has no inference_service/__init__.py"),
        (["cold", "--against", "{empty}"], "--against measures no other part"),
    ],
)
def test_a_wrong_command_ends_before_anything_starts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    complaint: str,
) -> None:
    monkeypatch.setattr(against, "compare", None)
    arguments = [text.format(empty=tmp_path) for text in arguments]
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])

    with pytest.raises(SystemExit) as ended:
        __main__.main()

    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err


def test_each_service_of_a_face_comes_first_second_and_third() -> None:
    orders = [against.order(number) for number in range(3)]

    assert orders[0] == ["grpc", "grpc-old", "grpc-control", "rest", "rest-old", "rest-control"]
    for services in zip(*orders, strict=True):
        assert len({*services}) == 3
    assert against.order(3) == orders[0]


@pytest.mark.parametrize(
    "figure, new, expected",
    [
        ("cpu_us_per_request", 150.0, "worse"),
        ("cpu_us_per_request", 50.0, "better"),
        ("cpu_us_per_request", 104.0, "within noise"),
        ("requests_per_second", 150.0, "better"),
        ("requests_per_second", 50.0, "worse"),
    ],
)
def test_a_verdict(figure: str, new: float, expected: str) -> None:
    control = [new * 1.05, new / 1.05] * 5

    line = grpc(rounds(figure, grpc=[new] * 10, grpc_control=control), figure)

    assert (line.new, line.old, line.change) == (new, 100, expected)
    assert line.noise == pytest.approx(1.05)


@pytest.mark.parametrize("contradicting, expected", [(1, "worse"), (2, "within noise")])
def test_one_of_twelve_rounds_may_contradict(contradicting: int, expected: str) -> None:
    new = [150.0] * (12 - contradicting) + [90.0] * contradicting

    assert grpc(rounds(grpc=new, grpc_control=new)).change == expected


def test_the_noise_of_one_face_is_not_that_of_the_other() -> None:
    measured = rounds(rest=[150.0] * 10, rest_control=[100.0, 200.0] * 5)
    first, second = against.lines(PART, measured)

    assert (first.noise, second.noise) == (1, 1.5)


def test_a_figure_that_is_not_above_zero_has_no_ratio() -> None:
    measured = rounds("added_p50_us", grpc=[5.0, 0.0])
    part = replace(PART, figures=("added_p50_us",))

    assert grpc(measured, "added_p50_us").ratio is None
    assert "not measured: not above zero in each round" in against.table(part, measured)


def test_the_table() -> None:
    measured = rounds(grpc=[120.0, 130.0, 120.0], grpc_control=[120.0, 130.0, 126.0])

    assert against.table(PART, measured).splitlines()[1:] == [
        "some work, 3 rounds",
        "                               new       old  new / old              noise",
        "grpc CPU us/request            120       100  1.200 [1.200-1.300]    x1.050  worse",
        "rest CPU us/request            100       100  1.000 [1.000-1.000]    x1.000  within noise",
    ]


def test_every_figure_of_the_plan_has_a_heading() -> None:
    assert {figure for part in PLAN for figure in part.figures} == {*against._HEADS}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Copy this checkout; the copy notes in `seen` which file was imported."""
    for package in ("inference_service", "rest_bridge", "benchmarks"):
        shutil.copytree(against.NEW / package, tmp_path / package)
    with (tmp_path / "inference_service/__init__.py").open("a") as file:
        file.write(f"\nopen({str(tmp_path / 'seen')!r}, 'a').write(__file__ + '\\n')\n")
    return tmp_path


@pytest.mark.slow
def test_a_comparison_as_a_whole(
    programs: Path, old: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("systems", "load"):
        monkeypatch.setattr(f"benchmarks.{module}.BUILD", programs)
    monkeypatch.setattr(against, "PLAN", (Part(UNARY, ("cpu_us_per_request",), 0.01, 0),))
    monkeypatch.setattr(against, "_PROCESSES", 1)

    against.compare(old, quick=True)

    shown = capsys.readouterr().out
    assert f"old: {old}" in shown
    assert "unary, 1 caller, 3 rounds" in shown
    assert len(re.findall(r"^(?:grpc|rest) CPU us/request .* x\d", shown, re.MULTILINE)) == 2
    seen = (old / "seen").read_text().splitlines()
    assert seen == [str(old / "inference_service/__init__.py")] * 2, "gRPC and REST"
