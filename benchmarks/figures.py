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
Change = Literal["better", "worse", "within noise"]


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

    @classmethod
    def settled(cls, over: Sequence[float], under: Sequence[float]) -> Ratio:
        """As `of`, but the range is the one that holds the true median with 99 %.

        It lies between two of the rounds, by the sign test: a loud moment of the machine, which
        spoils a few of many rounds, does not widen it. Fewer than 12 rounds keep their whole range.
        """
        ratios = sorted(a / b for a, b in zip(over, under, strict=True))
        left_out = _left_out(len(ratios))
        return cls(median(ratios), ratios[left_out], ratios[-1 - left_out])

    @property
    def noise(self) -> float:
        """As a factor, of a ratio that would be 1 without it."""
        return math.exp(max(abs(math.log(self.lowest)), abs(math.log(self.highest))))


def _left_out(rounds: int) -> int:
    """How many rounds a range with 99 % of certainty may leave out at each of its ends."""
    number, outside = 0, 2 / 2**rounds  # the median is below, or above, all rounds
    while (outside := outside + 2 * math.comb(rounds, number + 1) / 2**rounds) <= 0.01:
        number += 1
    return number


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


def change(ratio: Ratio, noise: float, *, at_least: bool = False) -> Change:
    """The verdict on new / old: the goal is 1, and less is better, or more with `at_least`."""
    said = verdict(ratio, 1, noise, at_least=at_least)
    return "better" if said == "met" else "worse" if said == "missed" else "within noise"
