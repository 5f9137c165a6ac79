"""The growth of a measurement over many requests, apart from its noise."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Trend:
    """A line through measurements: its rise for each request, and their distance from it."""

    rise: float
    growth: float  # from the first to the last
    noise: float

    def flat(self, allowed: float, least: float = 0) -> bool:
        """Return whether the rise for each request is within `allowed`, or within the noise.

        A growth of at most `least`, or of four times the noise, is flat in any case: a step that
        memory takes by chance is about as high as its noise, and is no leak; a leak goes on, and
        exceeds every noise.
        """
        return self.rise <= allowed or self.growth <= max(least, 4 * self.noise)


def trend(requests: Sequence[float], values: Sequence[float]) -> Trend:
    """Return the line of Theil and Sen: its rise is the median over all pairs of points.

    Up to a quarter of the points may lie anywhere, such as those during the start of an engine.
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
