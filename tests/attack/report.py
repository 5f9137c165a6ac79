"""The table of attacks."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tests.table import aligned

_HEAD = ("attack", "tried", "neighbour", "slowest", "longest", "peak", "found")


@dataclass(slots=True)
class Row:
    """One attack, and what it did to the service and to a neighbour who calls meanwhile."""

    attack: str
    tried: Counter[str] = field(default_factory=Counter)
    texts: int = 0  # that the neighbour got
    slowest: float = 0.0  # seconds, of the neighbour's calls
    longest: float = 0.0  # milliseconds of CPU time, of the loop's callbacks
    peak: float = 0.0  # MiB that the service has grown by at most
    found: Counter[str] = field(default_factory=Counter)  # that no service should show

    @property
    def cells(self) -> tuple[str, ...]:
        """The row as texts."""
        numbers = (f"{self.slowest:.1f} s", f"{self.longest:.0f} ms", f"{self.peak:.0f} MiB")
        counts = (str(self.tried.total()), f"{self.texts} texts")
        return (self.attack, *counts, *numbers, str(self.found.total()))


class Report:
    """The rows of all attacks, in order."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def __str__(self) -> str:
        return aligned(_HEAD, *(row.cells for row in self.rows))
