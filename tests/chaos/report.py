"""The table of faults: the answers of the callers, and the leftovers."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.table import aligned

_HEAD = ("fault", "calls", "answered", "wrongly", "left behind", "healthy after")


@dataclass(slots=True)
class Row:
    """One fault. `answered` counts the calls with exactly one answer, right or wrong."""

    fault: str
    calls: int = 0
    answered: int = 0
    wrong: list[str] = field(default_factory=list)  # answers that do not fit the fault
    left: list[str] = field(default_factory=list)  # leftovers
    healthy: float | None = None  # seconds from the fault to the next text

    @property
    def cells(self) -> tuple[str, ...]:
        """The row as texts."""
        healthy = "never" if self.healthy is None else f"{self.healthy:.2f} s"
        counts = (self.calls, self.answered, len(self.wrong), len(self.left))
        return (self.fault, *map(str, counts), healthy)


class Report:
    """The rows of all trials, in order."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def __str__(self) -> str:
        return aligned(_HEAD, *(row.cells for row in self.rows))
