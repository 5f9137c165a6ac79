"""Leaks are distinguished from noise."""

from __future__ import annotations

import random

import pytest

from tests.soak.flatness import Trend, trend

COUNTS = [50.0 * number for number in range(100)]


def noisy(leak: float, noise: float, step: float = 0) -> Trend:
    """Return the trend of `leak` bytes for each request, in noise, with a step after two thirds."""
    dice = random.Random(1)
    return trend(
        COUNTS,
        [leak * n + dice.gauss(0, noise) + step * (n > COUNTS[66]) for n in COUNTS],
    )


def test_a_line_is_found_in_spite_of_outliers() -> None:
    values = [7 + 3 * count for count in COUNTS]
    values[::5] = [10.0**9] * 20

    found = trend(COUNTS, values)

    assert found.rise == pytest.approx(3)
    assert found.growth == pytest.approx(3 * COUNTS[-1])


@pytest.mark.parametrize("noise", [0.0, 1e4, 3e5])
def test_a_leak_is_seen_in_the_noise(noise: float) -> None:
    assert not noisy(1024, noise).flat(256)


@pytest.mark.parametrize("noise", [0.0, 1e4, 1e6])
def test_noise_alone_is_flat(noise: float) -> None:
    assert noisy(0, noise).flat(256)


def test_one_step_is_flat() -> None:
    assert noisy(0, 1e5, step=3e5).flat(256)


def test_a_fall_is_flat() -> None:
    assert noisy(-1024, 0).flat(256)


def test_a_small_growth_is_flat() -> None:
    grown = noisy(1024, 0)
    assert grown.flat(256, least=grown.growth)
    assert not grown.flat(256, least=grown.growth - 1)
