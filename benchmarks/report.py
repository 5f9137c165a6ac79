"""What systems beside each other come to: the tables to print, and the record to keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import tables
from benchmarks.goals import Outcome
from benchmarks.rounds import Round, middles
from benchmarks.systems import Running


def report(
    found: Mapping[str, Running],
    absent: Mapping[str, str],
    rounds: Mapping[str, list[Round]],
    outcomes: Sequence[Outcome],
) -> dict[str, Any]:
    """Print the tables of all works and of the goals, and return the record of them."""
    figures = {work: middles(measured) for work, measured in rounds.items()}
    for work, middle in figures.items():
        print(tables.of_work(work, middle))
    print(tables.of_goals(outcomes))
    for name, reason in absent.items():
        print(f"not measured: {name}: {reason}")
    return {
        "versions": {name: running.system.version for name, running in found.items()},
        "absent": dict(absent),
        "figures": {w: {n: f.rounded() for n, f in m.items()} for w, m in figures.items()},
        "goals": [outcome.record() for outcome in outcomes],
    }
