"""The goals of the service, as ratios of figures of one run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.figures import Ratio, Verdict, verdict
from benchmarks.load import Work
from benchmarks.rounds import BURST, CONTROL, PACED, UNARY, UNARY_64, Round


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound for the figure of `over` divided by that of `under`: at most, or at least."""

    work: Work
    figure: str
    over: str
    under: str
    bound: float
    at_least: bool = False

    def __str__(self) -> str:
        return f"{self.work.name}: {self.figure}, {self.over} / {self.under}"


GOALS = (
    Goal(BURST, "cpu_us_per_token", "grpc", "relay", 0.25),
    Goal(BURST, "cpu_us_per_token", "rest", "litellm", 1 / 50),
    Goal(BURST, "tokens_per_second", "rest", "litellm", 40, at_least=True),
    Goal(BURST, "cpu_us_per_token", "rest", "httpx", 0.4),
    Goal(UNARY, "added_p50_us", "grpc", "nginx", 2.6),
    Goal(UNARY, "added_p50_us", "rest", "nginx", 7),
    Goal(UNARY_64, "requests_per_second", "rest", "litellm", 25, at_least=True),
    Goal(PACED, "cpu_us_per_token", "grpc", "litellm", 1 / 12),
    Goal(PACED, "cpu_us_per_token", "rest", "litellm", 1 / 6),
)

STREAMS_PER_CORE = {"grpc": 600, "rest": 300}


@dataclass(frozen=True, slots=True)
class Outcome:
    """A goal and its verdict; `ratio` and `verdict` are None if a peer was absent."""

    goal: Goal
    ratio: Ratio | None
    noise: float
    verdict: Verdict | None


def judge(rounds: Mapping[str, list[Round]]) -> list[Outcome]:
    """Judge each goal by the rounds of its work. `rounds` has them by the name of the work."""
    return [_judge(goal, rounds[goal.work.name]) for goal in GOALS]


def _judge(goal: Goal, rounds: list[Round]) -> Outcome:
    noise = _ratio(rounds, goal.figure, CONTROL, "grpc").noise
    if any(name not in rounds[0] for name in (goal.over, goal.under)):
        return Outcome(goal, None, noise, None)
    ratio = _ratio(rounds, goal.figure, goal.over, goal.under)
    found = verdict(ratio, goal.bound, noise, at_least=goal.at_least)
    return Outcome(goal, ratio, noise, found)


def _ratio(rounds: list[Round], figure: str, over: str, under: str) -> Ratio:
    def figures(name: str) -> list[float]:
        return [getattr(measured[name], figure) for measured in rounds]

    return Ratio.of(figures(over), figures(under))
