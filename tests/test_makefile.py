"""The environment that `make` makes, after an interruption."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parents[1] / "Makefile"

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def made(folder: Path) -> subprocess.CompletedProcess[str]:
    words = ["make", "-f", str(MAKEFILE), f"PYTHON={sys.executable}", ".venv/bin/python"]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)


def test_a_half_that_an_interruption_left_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / ".venv" / "stale").touch()

    assert made(tmp_path).returncode == 0

    words = [str(tmp_path / ".venv/bin/python"), "-m", "pip", "--version"]
    assert str(tmp_path) in subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert not (tmp_path / ".venv" / "stale").exists()
    assert "up to date" in made(tmp_path).stdout


def test_what_is_complete_stays(tmp_path: Path) -> None:
    """That of an older Makefile has no mark of its own."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / ".venv" / "run").touch()

    assert "up to date" in made(tmp_path).stdout


def test_a_python_that_is_gone_is_made_again(tmp_path: Path) -> None:
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(tmp_path / "gone")
    (tmp_path / ".venv" / "made").touch()

    assert made(tmp_path).returncode == 0
    assert (tmp_path / ".venv" / "bin" / "python").exists()


def test_a_python_that_cannot_make_one_leaves_nothing(tmp_path: Path) -> None:
    """As Debian's does without python3-venv."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\ncase $2 in *version*) ;; *) mkdir -p .venv/bin; exit 1;; esac\n")
    python.chmod(0o755)
    words = ["make", "-f", str(MAKEFILE), f"PYTHON={python}", ".venv/bin/python"]
    ran = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert ran.returncode != 0
    assert not (tmp_path / ".venv").exists()


def test_nothing_is_said_of_programs_that_are_not_needed(tmp_path: Path) -> None:
    """A bare Debian has no pkg-config."""
    for name in ("make", "sh", "python3", "find"):
        if found := shutil.which(name):
            (tmp_path / name).symlink_to(found)
    ran = subprocess.run(
        ["make", "-n", "clean"],
        cwd=MAKEFILE.parent,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert ran.stderr == ""
