"""The table of clients, at the end of the run."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from tests import table


class Row(NamedTuple):
    """A client that has done what its program says."""

    client: str
    language: str
    version: str
    engine: str
    seconds: str
    what: str


ROWS = pytest.StashKey[list[Row]]()
_HEAD = Row("client", "language", "version", "engine", "seconds", "what it did")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the table."""
    rows = config.stash[ROWS]
    table.write(terminalreporter, "clients", _HEAD, rows)
