"""Whether what was measured again and again has grown."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Trend:
    """A line through measurements: its rise for each request, and how far they lie from it."""

    rise: float
    growth: float  # from the first to the last
    noise: float

    def flat(self, allowed: float, least: float = 0) -> bool:
        """Whether it rises by no more than `allowed` for each request, or the noise explains it.

        A growth of no more than `least` is none in any case.
        Four times the noise: a step that memory takes by chance is about as high as its noise, and
        is no leak; a leak goes on, and leaves every noise behind.
        """
        return self.rise <= allowed or self.growth <= max(least, 4 * self.noise)


def trend(requests: Sequence[float], values: Sequence[float]) -> Trend:
    """The line of Theil and Sen: its rise is the median of those between all pairs of points.

    Up to a quarter of the points may lie anywhere, such as those at which an engine was starting.
    Noise is the median distance from the line, scaled to be the standard deviation where the
    distances are normal (https://en.wikipedia.org/wiki/Median_absolute_deviation).
    """
    points = list(zip(requests, values, strict=True))
    pairs = ((a, b) for a, b in itertools.combinations(points, 2) if a[0] != b[0])
    rise = statistics.median((b[1] - a[1]) / (b[0] - a[0]) for a, b in pairs)
    rests = [value - rise * count for count, value in points]
    middle = statistics.median(rests)
    noise = 1.4826 * statistics.median(abs(rest - middle) for rest in rests)
    return Trend(rise, rise * (requests[-1] - requests[0]), noise)
