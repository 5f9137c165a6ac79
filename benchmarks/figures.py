"""The arithmetic of the benchmark: ratios within a round, their noise, and verdicts.

A round measures each system twice, in the order A B C, C B A, so that a machine that gets slower or
faster during the round changes no ratio. One system is measured under two names: the difference of
its two figures is noise, and a smaller ratio of two systems proves nothing.
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
    """Return each item twice, forth and back; the last one stands once, in the middle."""
    return [*items, *reversed(items[:-1])]


@dataclass(frozen=True, slots=True)
class Ratio:
    """A figure of one system over that of another: the median of the rounds and their range."""

    middle: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, over: Sequence[float], under: Sequence[float]) -> Ratio:
        """Divide the figures of two systems, round by round. All must be above zero."""
        ratios = [a / b for a, b in zip(over, under, strict=True)]
        return cls(median(ratios), min(ratios), max(ratios))

    @classmethod
    def settled(cls, over: Sequence[float], under: Sequence[float]) -> Ratio:
        """Divide as `of` does, with the range that holds the median with 98 %.

        The sign test gives how many rounds this range leaves out at both ends, so a loud moment of
        the machine, which spoils a few of many rounds, does not widen the range. Fewer than
        eleven rounds keep their whole range; that of fewer than seven holds the median with less.
        """
        ratios = sorted(a / b for a, b in zip(over, under, strict=True))
        left_out = _left_out(len(ratios))
        return cls(median(ratios), ratios[left_out], ratios[-1 - left_out])

    @property
    def noise(self) -> float:
        """Noise as a factor, of a ratio that would be 1 without noise."""
        return math.exp(max(abs(math.log(self.lowest)), abs(math.log(self.highest))))


def _left_out(rounds: int) -> int:
    """Return how many rounds a range of 98 % may leave out at each end."""
    number, outside = 0, 2 / 2**rounds  # that the median is below or above all rounds
    while (outside := outside + 2 * math.comb(rounds, number + 1) / 2**rounds) <= 0.02:
        number += 1
    return number


def verdict(ratio: Ratio, goal: float, noise: float, *, at_least: bool = False) -> Verdict:
    """Judge the goal that a ratio is at most `goal`, or at least.

    `noise` is a factor, 1 for none. A ratio within the noise around 1 is void, unless 1 is as much
    as the goal asks for. A verdict that the noise or the worst round could turn is "within noise".
    """

    def reaches(value: float) -> bool:
        return value >= goal if at_least else value <= goal

    if 1 / noise <= ratio.middle <= noise and not reaches(1):
        return "void"
    met = reaches(ratio.middle)
    extremes = (ratio.lowest, ratio.highest, ratio.middle / noise, ratio.middle * noise)
    if all(reaches(value) is met for value in extremes):
        return "met" if met else "missed"
    return "met, within noise" if met else "missed, within noise"


def change(ratio: Ratio, noise: float, *, at_least: bool = False) -> Change:
    """Judge new / old by the goal 1: less is better, or more with `at_least`."""
    if 1 / noise <= ratio.middle <= noise:
        return "within noise"
    found = verdict(ratio, 1, noise, at_least=at_least)
    return "better" if found == "met" else "worse" if found == "missed" else "within noise"
