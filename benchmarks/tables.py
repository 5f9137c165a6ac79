"""Figures of a part as lines of text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

from benchmarks.goals import STREAMS_PER_CORE, Outcome
from benchmarks.rounds import CONTROL, Capacity, Round

_ORDER = (
    *("direct", "nginx", "httpx", "relay", "litellm", "vllm-router", "sglang-router"),
    *("splice", "splice-uvloop", "grpc-floor", "grpc", CONTROL, "rest", "chat"),
)

_COLUMNS = {
    "CPU us/token": "cpu_us_per_token",
    "CPU us/request": "cpu_us_per_request",
    "tokens/s": "tokens_per_second",
    "requests/s": "requests_per_second",
    "p50 added us": "added_p50_us",
    "token p99 us": "token_p99_us",
    "messages/1000": "messages_per_1000_tokens",
    "memory MB": "memory_mb",
}


def shown(title: str, figures: Mapping[str, Any]) -> str:
    """Format one line for each figure, in the order of the measurements.

    A list becomes its median and range. Figures of one thing stand on one line.
    """
    return "\n".join(_lines(title, figures))


def of_work(title: str, figures: Round) -> str:
    """Format a table of some work: a line for each system."""
    lines = [f"\n{title}", "system".ljust(14) + "".join(head.rjust(16) for head in _COLUMNS)]
    for name in _sorted(figures):
        cells = (_shown(getattr(figures[name], column)) for column in _COLUMNS.values())
        lines.append(name.ljust(14) + "".join(cell.rjust(16) for cell in cells))
    return "\n".join(lines)


def of_capacities(capacities: Mapping[str, list[Capacity]]) -> str:
    """Format the streams per core: a line for each system; empty without a system."""
    lines = [_capacity(name, capacities[name]) for name in _sorted(capacities)]
    return "\n".join(["\nstreams per core", *lines]) if lines else ""


def of_goals(outcomes: Iterable[Outcome]) -> str:
    """Format a line for each goal."""
    head = "\ngoals: ratio [range over rounds], A/A noise as a factor"
    return "\n".join([head, *map(_goal, outcomes)])


def _capacity(name: str, passes: list[Capacity]) -> str:
    streams = sorted(each.streams for each in passes)
    last = passes[-1]
    goal = STREAMS_PER_CORE.get(name)
    return (
        f"{name:10}{streams[len(streams) // 2]:6} streams of 20 tokens/s with p99 < 50 ms "
        f"(passes {streams}); at {last.failed_at or 'the top'}: p99 "
        f"{last.token_p99_us / 1000:.0f} ms, {last.core_share:.0%} of a core"
        + (f"; goal {goal}" if goal else "")
    )


def _goal(outcome: Outcome) -> str:
    goal, ratio = outcome.goal, outcome.ratio
    bound = f"{'>=' if goal.at_least else '<='} {goal.bound:.3g}"
    line = f"{goal!s:82}{bound:>9}"
    if ratio is None:
        return f"{line}  not measured"
    seen = f"{ratio.middle:.3g} [{ratio.lowest:.3g}-{ratio.highest:.3g}]"
    line += f"  {seen:24} x{outcome.noise:.2f}  {outcome.verdict}"
    if len(goal.peers) > 1:
        line += f"; against {outcome.under}"
    if outcome.floor is not None:
        line += f"; the floor {goal.floor} {outcome.floor.middle:.3g}"
    return line


def _sorted(names: Iterable[str]) -> list[str]:
    return sorted(names, key=_ORDER.index)


def _shown(value: float) -> str:
    if value != value or value < 0:  # not measured
        return "-"
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def _lines(title: str, figures: Mapping[str, Any]) -> list[str]:
    if not any(isinstance(value, Mapping | list) for value in figures.values()):
        return [f"{title}: " + ", ".join(f"{name} {_cell(v)}" for name, v in figures.items())]
    lines = []
    for name, value in figures.items():
        within = f"{title} | {name}"
        lines += (
            _lines(within, value) if isinstance(value, Mapping) else [f"{within}: {_cell(value)}"]
        )
    return lines


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return f"{_cell(median(value))} [{_cell(min(value))}-{_cell(max(value))}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
