"""Tests of the arithmetic that turns readings into verdicts."""

import math

import pytest

from benchmarks.figures import Change, Ratio, Verdict, change, palindrome, verdict


def test_each_is_visited_twice_and_the_slowest_once_in_the_middle() -> None:
    assert palindrome(["a", "b", "slow"]) == ["a", "b", "slow", "b", "a"]


def test_drift_within_a_round_cancels() -> None:
    order = palindrome(["a", "b", "c"])
    cost = dict.fromkeys("abc", 0)
    for minute, name in enumerate(order):
        cost[name] += 10 + minute  # every visit costs more than the one before

    assert cost["a"] == cost["b"] == 2 * cost["c"]


def test_a_ratio_is_the_median_of_the_rounds() -> None:
    ratio = Ratio.of([1.0, 4.0, 9.0], [1.0, 2.0, 3.0])

    assert (ratio.middle, ratio.lowest, ratio.highest) == (2.0, 1.0, 3.0)


@pytest.mark.parametrize("lowest, highest", [(0.8, 1.1), (0.9, 1.25)])
def test_noise_is_the_larger_distance_from_one_in_either_direction(
    lowest: float, highest: float
) -> None:
    assert math.isclose(Ratio(1.0, lowest, highest).noise, 1.25)


@pytest.mark.parametrize(
    "ratio, noise, expected",
    [
        (0.3, 1.1, "met"),
        (0.38, 1.1, "met, within noise"),
        (0.42, 1.1, "missed, within noise"),
        (0.6, 1.1, "missed"),
        (0.95, 1.1, "void"),
        (1.05, 1.1, "void"),
        (0.3, 4.0, "void"),
    ],
)
def test_at_most(ratio: float, noise: float, expected: Verdict) -> None:
    assert verdict(Ratio(ratio, ratio, ratio), 0.4, noise) == expected


@pytest.mark.parametrize(
    "ratio, noise, expected",
    [
        (60, 1.2, "met"),
        (42, 1.2, "met, within noise"),
        (38, 1.2, "missed, within noise"),
        (20, 1.2, "missed"),
        (1.1, 1.2, "void"),
    ],
)
def test_at_least(ratio: float, noise: float, expected: Verdict) -> None:
    assert verdict(Ratio(ratio, ratio, ratio), 40, noise, at_least=True) == expected


@pytest.mark.parametrize(
    "ratio, goal, expected",
    [
        (0.8, 1, "met"),
        (0.98, 1, "met, within noise"),
        (1.02, 1, "missed, within noise"),
        (1.2, 1, "missed"),
        (1.0, 1.15, "met"),
        (1.1, 1.15, "met, within noise"),
    ],
)
def test_a_goal_that_asks_for_no_more_than_the_same_is_not_void(
    ratio: float, goal: float, expected: Verdict
) -> None:
    assert verdict(Ratio(ratio, ratio, ratio), goal, 1.1) == expected


def test_a_goal_that_one_round_misses_is_not_simply_met() -> None:
    assert verdict(Ratio(0.33, 0.25, 0.41), 0.4, 1.01) == "met, within noise"
    assert verdict(Ratio(0.45, 0.39, 0.6), 0.4, 1.01) == "missed, within noise"
    assert verdict(Ratio(76, 30, 80), 40, 1.01, at_least=True) == "met, within noise"


@pytest.mark.parametrize("rounds, left_out", [(1, 0), (7, 0), (10, 0), (11, 1), (15, 2), (24, 5)])
def test_a_settled_range_leaves_out_as_many_rounds_as_the_sign_test_allows(
    rounds: int, left_out: int
) -> None:
    values = [float(value) for value in range(1, rounds + 1)]

    ratio = Ratio.settled(values[::-1], [1.0] * rounds)

    assert ratio == Ratio((rounds + 1) / 2, 1 + left_out, rounds - left_out)


@pytest.mark.parametrize(
    "ratio, at_least, expected",
    [
        (Ratio(1.2, 1.15, 1.3), False, "worse"),
        (Ratio(1.2, 1.15, 1.3), True, "better"),
        (Ratio(0.8, 0.7, 0.85), False, "better"),
        (Ratio(0.8, 0.7, 0.85), True, "worse"),
        (Ratio(1.05, 1.04, 1.06), False, "within noise"),
        (Ratio(1.2, 0.99, 1.3), False, "within noise"),
    ],
)
def test_a_change_is_judged_by_the_rules_of_a_goal(
    ratio: Ratio, at_least: bool, expected: Change
) -> None:
    assert change(ratio, 1.1, at_least=at_least) == expected
