"""Figures of a part as lines of text."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any


def shown(title: str, figures: Mapping[str, Any]) -> str:
    """Format one line for each figure, in the order of the measurements.

    A list becomes its median and range. Figures of one thing stand on one line.
    """
    return "\n".join(_lines(title, figures))


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
