"""Tests of goals: the best of several peers, the floor, what was absent."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.goals import CHAT_GOALS, GOALS, Goal, Outcome, judge
from benchmarks.rounds import CONTROL, UNARY_64, Figures, Round
from benchmarks.tables import of_goals

ZERO = Figures(*[0.0] * 9)
COST = Goal(UNARY_64, "cpu_us_per_request", "ours", ("fast", "slow"), 0.8, floor="floor")


def rounds(**costs: list[float]) -> list[Round]:
    """Return rounds with these costs of a request, and as many requests in a second."""
    names = {"ours": [100.0], "floor": [25.0], CONTROL: [100.0], **costs}
    return [
        {
            name: replace(ZERO, cpu_us_per_request=each[number], requests_per_second=each[number])
            for name, each in names.items()
        }
        for number in range(len(names["ours"]))
    ]


def judged(goal: Goal, measured: list[Round]) -> Outcome:
    [outcome] = judge({goal.work.name: measured}, [goal], "ours")
    return outcome


def test_the_peer_with_the_least_cost_counts() -> None:
    outcome = judged(COST, rounds(fast=[200.0], slow=[400.0]))

    assert outcome.under == "fast"
    assert outcome.ratio is not None
    assert (outcome.ratio.middle, outcome.verdict) == (0.5, "met")


def test_the_peer_with_the_most_counts_where_more_is_better() -> None:
    goal = replace(COST, figure="requests_per_second", at_least=True)

    assert judged(goal, rounds(fast=[400.0], slow=[200.0])).under == "fast"


def test_one_peer_counts_in_all_rounds() -> None:
    three = {"ours": [100.0] * 3, CONTROL: [100.0] * 3, "floor": [25.0] * 3}

    outcome = judged(COST, rounds(**three, fast=[200.0, 500.0, 200.0], slow=[400.0] * 3))

    assert outcome.under == "fast", "by the median, although it was the slower one once"
    assert outcome.ratio is not None
    assert (outcome.ratio.lowest, outcome.ratio.middle) == (0.2, 0.5)


@pytest.mark.parametrize("missing", ["ours", "fast", "slow"])
def test_a_goal_without_one_of_its_systems_is_not_measured(missing: str) -> None:
    measured = rounds(fast=[200.0], slow=[400.0])
    everybody = {**measured[0], "service": measured[0]["ours"]}
    del everybody[missing]

    [outcome] = judge({UNARY_64.name: [everybody]}, [COST], "service")

    assert (outcome.ratio, outcome.verdict) == (None, None)
    assert outcome.record()["verdict"] == "not measured"
    assert of_goals([outcome]).endswith("not measured")


def test_a_goal_that_is_missed_is_shown_beside_the_floor() -> None:
    outcome = judged(COST, rounds(fast=[50.0], slow=[80.0]))

    line = of_goals([outcome]).splitlines()[-1]

    assert "unary, 64 callers: cpu_us_per_request, ours / fast or slow" in line
    assert line.endswith(
        "2 [2-2]                  x1.00  missed; against fast; the floor floor 0.5"
    )
    assert outcome.record()["floor"] == [0.5, 0.5, 0.5]


def test_the_noise_is_that_of_the_system_that_has_two_names() -> None:
    assert judged(COST, rounds(fast=[200.0], slow=[400.0], control=[125.0])).noise == 1.25


def test_every_goal_can_be_told_from_the_others() -> None:
    names = [str(goal) for goal in (*GOALS, *CHAT_GOALS)]

    assert len({*names}) == len(names)
