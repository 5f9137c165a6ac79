"""The table of example programs, at the end of the run."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from tests import table


class Row(NamedTuple):
    """A program that has done all its steps, each with its seconds."""

    language: str
    library: str
    version: str
    seconds: str
    steps: str


ROWS = pytest.StashKey[list[Row]]()
_HEAD = Row("language", "library", "version", "seconds", "steps")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the table."""
    rows = config.stash[ROWS]
    table.write(terminalreporter, "examples", _HEAD, rows)
