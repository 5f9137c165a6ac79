"""The goals of the service, as ratios of figures of one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.figures import Ratio, Verdict, verdict
from benchmarks.load import Work
from benchmarks.rounds import BURST, CONTROL, PACED, UNARY, UNARY_64, Round


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound for the figure of `over` divided by that of `under`: at most, or at least.

    Of several peers in `under` the best counts. `floor` is a system that does less than `over`
    must: its ratio to the same peer shows how much of the bound is left to spend.
    """

    work: Work
    figure: str
    over: str
    under: str | tuple[str, ...]
    bound: float
    at_least: bool = False
    floor: str = ""

    def __str__(self) -> str:
        return f"{self.work.name}: {self.figure}, {self.over} / {' or '.join(self.peers)}"

    @property
    def peers(self) -> tuple[str, ...]:
        """The systems of which the best is divided by."""
        return (self.under,) if isinstance(self.under, str) else self.under


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

_ROUTERS = ("vllm-router", "sglang-router")

CHAT_GOALS = (
    Goal(BURST, "cpu_us_per_token", "chat", _ROUTERS, 0.8, floor="splice"),
    Goal(PACED, "cpu_us_per_token", "chat", _ROUTERS, 1, floor="splice"),
    Goal(UNARY_64, "cpu_us_per_request", "chat", _ROUTERS, 0.8, floor="splice"),
    Goal(UNARY, "added_p50_us", "chat", _ROUTERS, 1, floor="splice"),
    Goal(PACED, "cpu_us_per_token", "rest", "splice", 2),
    Goal(PACED, "cpu_us_per_token", "grpc", "grpc-floor", 1.15),
)

STREAMS_PER_CORE = {"grpc": 600, "rest": 300}


@dataclass(frozen=True, slots=True)
class Outcome:
    """A goal and its verdict; `ratio` and `verdict` are None if a system was absent.

    `under` is the peer that counted, and `floor` the ratio of the goal's floor to it.
    """

    goal: Goal
    ratio: Ratio | None
    noise: float
    verdict: Verdict | None
    under: str = ""
    floor: Ratio | None = None

    def record(self) -> dict[str, Any]:
        """Return the outcome for a file."""
        return {
            "goal": str(self.goal),
            "bound": round(self.goal.bound, 4),
            "at_least": self.goal.at_least,
            "under": self.under,
            "ratio": self.ratio and _rounded(self.ratio),
            **({"floor": _rounded(self.floor)} if self.floor else {}),
            "noise": round(self.noise, 3),
            "verdict": self.verdict or "not measured",
        }


def judge(
    rounds: Mapping[str, list[Round]], goals: Sequence[Goal] = GOALS, control: str = "grpc"
) -> list[Outcome]:
    """Judge each goal by the rounds of its work. `rounds` has them by the name of the work.

    `control` is the system that was visited under two names.
    """
    return [_judge(goal, rounds[goal.work.name], control) for goal in goals]


def _judge(goal: Goal, rounds: list[Round], control: str) -> Outcome:
    noise = _ratio(rounds, goal.figure, CONTROL, control).noise
    under = _best(goal, rounds)
    if not under or goal.over not in rounds[0]:
        return Outcome(goal, None, noise, None)
    ratio = _ratio(rounds, goal.figure, goal.over, under)
    found = verdict(ratio, goal.bound, noise, at_least=goal.at_least)
    floor = None
    if goal.floor in rounds[0]:
        floor = _ratio(rounds, goal.figure, goal.floor, under)
    return Outcome(goal, ratio, noise, found, under, floor)


def _best(goal: Goal, rounds: list[Round]) -> str:
    """Return the peer with the best median, empty if a peer was absent."""
    if any(name not in rounds[0] for name in goal.peers):
        return ""
    best = max if goal.at_least else min
    return best(goal.peers, key=lambda name: median(_figures(rounds, goal.figure, name)))


def _ratio(rounds: list[Round], figure: str, over: str, under: str) -> Ratio:
    return Ratio.of(_figures(rounds, figure, over), _figures(rounds, figure, under))


def _figures(rounds: list[Round], figure: str, name: str) -> list[float]:
    return [getattr(measured[name], figure) for measured in rounds]


def _rounded(ratio: Ratio) -> list[float]:
    return [round(ratio.middle, 4), round(ratio.lowest, 4), round(ratio.highest, 4)]
