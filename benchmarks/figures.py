"""The arithmetic of the benchmark: ratios within a round, their noise, and what a goal makes of it.

A round measures each system twice, in the order A B C, C B A, so that a machine that gets slower or
faster during it changes no ratio. One system is measured under two names: what its two figures
differ by is noise, and a ratio that is not larger than that says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal, TypeVar

Item = TypeVar("Item")

Verdict = Literal["met", "missed", "met, within noise", "missed, within noise", "void"]


def palindrome(items: Sequence[Item]) -> list[Item]:
    """Each item twice, forth and back, but the last, which stands once in the middle."""
    return [*items, *reversed(items[:-1])]


@dataclass(frozen=True, slots=True)
class Ratio:
    """One figure of a system over that of another: the median of the rounds and their range."""

    middle: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, over: Sequence[float], under: Sequence[float]) -> Ratio:
        """Of the figures of two systems, round by round. All must be above zero."""
        ratios = [a / b for a, b in zip(over, under, strict=True)]
        return cls(median(ratios), min(ratios), max(ratios))

    @property
    def noise(self) -> float:
        """As a factor, of a ratio that would be 1 without it."""
        return math.exp(max(abs(math.log(self.lowest)), abs(math.log(self.highest))))


def verdict(ratio: Ratio, goal: float, noise: float, *, at_least: bool = False) -> Verdict:
    """What a ratio says of the goal that it be at most (or at least) `goal`.

    `noise` is a factor, 1 for none: a ratio that may be 1 for all one knows is void, and a verdict
    that the noise, or the worst of the rounds, could turn says so.
    """
    if 1 / noise <= ratio.middle <= noise:
        return "void"

    def reaches(value: float) -> bool:
        return value >= goal if at_least else value <= goal

    met = reaches(ratio.middle)
    extremes = (ratio.lowest, ratio.highest, ratio.middle / noise, ratio.middle * noise)
    if all(reaches(value) is met for value in extremes):
        return "met" if met else "missed"
    return "met, within noise" if met else "missed, within noise"
