"""Measurements of the same work by every system, in turn, round after round."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from statistics import mean, median

from benchmarks.figures import palindrome
from benchmarks.load import Reading, Work, ask
from benchmarks.systems import Running

UNARY = Work("unary, 1 caller", 1, 16, streamed=False, step=16)
UNARY_64 = Work("unary, 64 callers", 64, 16, streamed=False, step=16)
BURST = Work("burst, 64 streams", 64, 200, streamed=True)
PACED = Work("paced, 16 streams of 20 tokens/s", 16, 60, streamed=True, pace=50, skip=20)

CONTROL = "control"  # the second name of a system, for the noise

LATENCY_LIMIT_US = 50_000

# Streams at once; a step is a quarter to a third above the one before.
LADDER = (16, 32, 48, 64, 80, 100, 125, 160, 200, 250, 300, 375, 475, 600, 750, 950, 1200, 1500)


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of one system for some work, in one round."""

    cpu_us_per_token: float
    cpu_us_per_request: float
    tokens_per_second: float
    requests_per_second: float
    messages_per_1000_tokens: float
    request_p50_us: float
    token_p50_us: float
    token_p99_us: float
    memory_mb: float
    added_p50_us: float = math.nan  # of a request, minus the p50 of the engine alone

    @classmethod
    def of(cls, visits: list[tuple[Reading, float]], memory: int) -> Figures:
        """Add up the visits of one round, each with its CPU seconds."""
        readings = [reading for reading, _ in visits]
        cpu = sum(cpu for _, cpu in visits) * 1e6
        tokens = sum(reading.tokens for reading in readings)
        requests = sum(reading.requests for reading in readings)
        seconds = sum(reading.seconds for reading in readings)
        return cls(
            cpu_us_per_token=cpu / tokens,
            cpu_us_per_request=cpu / requests,
            tokens_per_second=tokens / seconds,
            requests_per_second=requests / seconds,
            messages_per_1000_tokens=1000 * sum(r.messages for r in readings) / tokens,
            request_p50_us=mean(reading.request_p50_us for reading in readings),
            token_p50_us=mean(reading.token_p50_us for reading in readings),
            token_p99_us=mean(reading.token_p99_us for reading in readings),
            memory_mb=memory / 2**20,
        )

    def rounded(self) -> dict[str, float | None]:
        """Return the figures for a file; None stands for one that was not measured."""
        return {
            name: round(value, 3) if value == value and value >= 0 else None
            for name, value in asdict(self).items()
        }


Round = dict[str, Figures]  # by the name of the system


def middles(rounds: list[Round]) -> Round:
    """Return the median of each figure over the rounds."""
    return {name: _middle([measured[name] for measured in rounds]) for name in rounds[0]}


def _middle(figures: list[Figures]) -> Figures:
    names = Figures.__slots__
    return replace(
        figures[0], **{name: median(getattr(figure, name) for figure in figures) for name in names}
    )


def measure(
    systems: Mapping[str, Running], work: Work, rounds: int, seconds: float, control: str = "grpc"
) -> list[Round]:
    """Visit each system twice in each round, for about `seconds` each time.

    The system `control` is visited under its second name, too. Paced work takes its own time.
    LiteLLM is slow, so a round visits it once, in the middle. Raises WrongAnswer.
    """
    names = [name for name in systems if name != "litellm"]
    names.insert(len(names) // 2, CONTROL)  # far from the last, so that drift counts as noise
    if "litellm" in systems:
        names.append("litellm")
    named = {**systems, CONTROL: systems[control]}
    ordered = {name: named[name] for name in names}
    requests = {name: enough(system, work, seconds) for name, system in ordered.items()}
    return [one_round(ordered, work, requests) for _ in range(rounds)]


def one_round(systems: Mapping[str, Running], work: Work, requests: Mapping[str, int]) -> Round:
    """Visit each system twice, but the last once, in the middle. Raises WrongAnswer."""
    visits: dict[str, list[tuple[Reading, float]]] = {name: [] for name in systems}
    for name in palindrome(list(systems)):
        visits[name].append(_visit(systems[name], work, requests[name]))
    figures = {
        name: Figures.of(visits[name], system.memory_bytes()) for name, system in systems.items()
    }
    if "direct" not in figures:
        return figures
    engine = figures["direct"].request_p50_us
    return {
        name: replace(figure, added_p50_us=figure.request_p50_us - engine)
        for name, figure in figures.items()
    }


def _visit(running: Running, work: Work, requests: int) -> tuple[Reading, float]:
    before = running.cpu_seconds()
    reading = ask(running, work, requests)
    return reading, running.cpu_seconds() - before


def enough(running: Running, work: Work, seconds: float) -> int:
    """Return how many requests fill the time, by a try that warms the system up."""
    few = replace(work, callers=min(work.callers, 8))
    if work.pace:
        ask(running, replace(few, tokens=5), few.callers)
        return work.callers
    reading = ask(running, few, 4 * few.callers)
    wanted = reading.requests / reading.seconds * seconds
    return work.callers * max(1, round(wanted / work.callers))


@dataclass(frozen=True, slots=True)
class Capacity:
    """The most streams of 20 tokens/s that a system sustained, and the next step.

    `streams` is 0 if the first step failed. `token_p99_us` is the time from the engine to the
    client, `core_share` the share of a core that the system used; both belong to the step that
    failed, or to the last one if none did.
    """

    streams: int
    failed_at: int | None
    token_p99_us: float
    core_share: float


def capacity(running: Running) -> Capacity:
    """Climb the ladder until 1 % of the tokens take 50 ms or more."""
    sustained = 0
    for streams in LADDER:
        work = replace(PACED, callers=streams)
        reading, cpu = _visit(running, work, streams)
        share = cpu / reading.seconds
        if reading.token_p99_us >= LATENCY_LIMIT_US:
            return Capacity(sustained, streams, reading.token_p99_us, share)
        sustained = streams
    return Capacity(sustained, None, reading.token_p99_us, share)
