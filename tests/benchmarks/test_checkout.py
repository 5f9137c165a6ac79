"""Tests of the service of another checkout: its code runs, or a sentence says why not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import checkout, systems
from benchmarks.systems import Running

SERVICE = """\
import inference_service, rest_bridge, sys
def main():
    print(inference_service.__file__, rest_bridge.__file__, *sys.argv)
"""


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Make a checkout whose service prints the files of its code, and its arguments."""
    for package in ("inference_service", "rest_bridge", "benchmarks"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "benchmarks/service.py").write_text(SERVICE)
    return tmp_path


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", checkout.__file__, str(folder), "1234", "--rest"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_runs_the_code_of_the_other_checkout(other: Path) -> None:
    done = run(other)

    assert done.stderr == ""
    assert done.stdout.split() == [
        *(str(other / name / "__init__.py") for name in ("inference_service", "rest_bridge")),
        *("benchmarks.service", "1234", "--rest"),
    ]


@pytest.mark.parametrize("package", ["inference_service", "rest_bridge"])
def test_refuses_the_code_of_this_checkout(other: Path, package: str) -> None:
    (other / package / "__init__.py").unlink()
    (other / package).rmdir()

    done = run(other)

    assert done.returncode == 1
    assert done.stderr.startswith(f"{package} was imported from ")
    assert done.stderr.endswith(f"{package}/__init__.py, not from {other}\n")


def test_refuses_code_behind_a_link(other: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "rest_bridge"
    (other / "rest_bridge").rename(elsewhere)
    (other / "rest_bridge").symlink_to(elsewhere)

    assert "rest_bridge was imported from " in run(other).stderr


def test_a_checkout_runs_on_its_own_interpreter(tmp_path: Path) -> None:
    [without] = systems.checkout(tmp_path, "grpc-old")
    own = tmp_path / ".venv/bin/python"
    own.parent.mkdir(parents=True)
    own.symlink_to(sys.executable)
    [system] = systems.checkout(tmp_path, "rest-old")

    assert without.command(1, 2, tmp_path)[0] == sys.executable
    assert system.command(1, 2, tmp_path)[0] == str(own), "the link leads out of the environment"
    assert (without.face, system.face, system.cwd) == ("grpc", "rest", tmp_path)


def test_a_service_that_does_not_start_is_absent(engine: Running, other: Path) -> None:
    (other / "benchmarks/service.py").write_text("raise SystemExit('no such thing')")

    with systems.running(engine.port, systems.checkout(other, "grpc-old")) as (found, absent):
        assert not found
        assert absent == {"grpc-old": "grpc-old does not come up: no such thing"}
