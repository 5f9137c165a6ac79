"""The comparison of this checkout (new) with another one (old), in one run.

The new service runs twice, as two processes: their difference is the noise of the run. The
comparison is printed and not written to results.json, which has the figures of this checkout alone.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from benchmarks import systems
from benchmarks.figures import Change, Ratio, change
from benchmarks.load import Work
from benchmarks.rounds import BURST, PACED, UNARY, UNARY_64, Round, enough, one_round
from benchmarks.systems import Running

NEW = Path(__file__).parents[1]
FACES = ("grpc", "rest")

_NEEDED = ("inference_service/__init__.py", "rest_bridge/__init__.py", "benchmarks/service.py")
_SERVICES = ("", "-old", "-control")  # the name of a system is its face and one of these
_PROCESSES = 3  # starts of all services, because no two processes are equally fast
_ROUNDS = 3  # for each start at least, so that each service is first, second and third once


@dataclass(frozen=True, slots=True)
class Part:
    """Some work and the figures to compare; `visit` and `total` are seconds."""

    work: Work
    figures: tuple[str, ...]
    visit: float
    total: float


# Of a text in a burst the engine takes most of the time (55 of 75 ms), and its noise is as large as
# the time that the service adds. Paced tokens have their own latency; their rate is the engine's.
PLAN = (
    Part(UNARY, ("cpu_us_per_request", "requests_per_second", "added_p50_us"), 0.1, 25),
    Part(UNARY_64, ("cpu_us_per_request", "requests_per_second", "added_p50_us"), 0.1, 25),
    Part(BURST, ("cpu_us_per_token", "tokens_per_second", "request_p50_us"), 0.1, 40),
    Part(replace(PACED, tokens=20, skip=5), ("cpu_us_per_token", "token_p50_us"), 0, 120),
)

_HEADS = {
    "cpu_us_per_request": "CPU us/request",
    "cpu_us_per_token": "CPU us/token",
    "requests_per_second": "requests/s",
    "tokens_per_second": "tokens/s",
    "added_p50_us": "added p50 us",
    "request_p50_us": "p50 us of a text",
    "token_p50_us": "p50 us of a token",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One figure of one face: medians of new and old, their ratio, the noise, the verdict.

    `ratio` is None if a figure of some round is not above zero.
    """

    face: str
    figure: str
    new: float
    old: float
    ratio: Ratio | None
    noise: float
    change: Change | None


def checkout(folder: str) -> Path:
    """Return the path of a checkout. Raises ValueError with a sentence if it is none."""
    path = Path(folder).resolve()
    if not path.is_dir():
        raise ValueError(f"there is no folder {folder}")
    if missing := [name for name in _NEEDED if not (path / name).is_file()]:
        raise ValueError(f"{folder} is no checkout of this service: it has no {missing[0]}")
    return path


def compare(old: Path, quick: bool) -> None:
    """Measure and print the tables. Exits with a sentence if a service does not start."""
    for name, folder in {"new": NEW, "old": old}.items():
        print(f"{name}: {folder} {systems.version(folder)}")
    rounds: dict[str, list[Round]] = {part.work.name: [] for part in PLAN}
    for number in range(_PROCESSES):
        print(f"processes {number + 1} of {_PROCESSES}", flush=True)
        with _serving(old) as (engine, found):
            for part in PLAN:
                seconds = part.total / _PROCESSES * (1 if quick else 3)
                rounds[part.work.name] += _measured(engine, found, part, seconds)
    print("\nnew / old: median [98 %], noise as a factor (the new service against itself)")
    for part in PLAN:
        print(table(part, rounds[part.work.name]))


@contextmanager
def _serving(old: Path) -> Iterator[tuple[Running, dict[str, Running]]]:
    """Run the engine and all services in front of it."""
    plan = [
        system
        for suffix, folder in zip(_SERVICES, (NEW, old, NEW), strict=True)
        for system in systems.checkout(folder, *(face + suffix for face in FACES))
    ]
    with systems.engine() as engine, systems.running(engine.port, plan) as (found, absent):
        if absent:
            sys.exit("; ".join(absent.values()))
        yield engine, found


def _measured(
    engine: Running, found: Mapping[str, Running], part: Part, seconds: float
) -> list[Round]:
    """Measure rounds of the work until the seconds are over."""
    ends = time.monotonic() + seconds
    requests = {name: enough(running, part.work, part.visit) for name, running in found.items()}
    for face in FACES:  # new and old do the same number of requests
        requests |= {face + suffix: requests[face] for suffix in _SERVICES}
    requests["direct"] = enough(engine, part.work, part.visit)
    rounds: list[Round] = []
    while len(rounds) < _ROUNDS or time.monotonic() < ends:
        visited = {name: found[name] for name in order(len(rounds))}
        rounds.append(one_round({**visited, "direct": engine}, part.work, requests))
    return rounds


def order(number: int) -> list[str]:
    """Order the services of a round: each service of a face is first, second and third in turn.

    The first service of a round is also the last of the round before, so its code is still in the
    caches.
    """
    first = number % len(_SERVICES)
    suffixes = [*_SERVICES[first:], *_SERVICES[:first]]
    return [face + suffix for face in FACES for suffix in suffixes]


def lines(part: Part, rounds: Sequence[Round]) -> list[Line]:
    """Compare each figure of some work, for each face."""
    return [_line(face, figure, rounds) for figure in part.figures for face in FACES]


def _line(face: str, figure: str, rounds: Sequence[Round]) -> Line:
    new, old, control = (
        [getattr(measured[face + suffix], figure) for measured in rounds] for suffix in _SERVICES
    )
    middles = median(new), median(old)
    if min(*new, *old, *control) <= 0:
        return Line(face, figure, *middles, None, 1, None)
    ratio, noise = Ratio.settled(new, old), Ratio.settled(control, new).noise
    found = change(ratio, noise, at_least=figure.endswith("_per_second"))
    return Line(face, figure, *middles, ratio, noise, found)


def table(part: Part, rounds: Sequence[Round]) -> str:
    """Format the lines of some work."""
    title = f"{part.work.name}, {len(rounds)} rounds"
    head = f"{'':24}{'new':>10}{'old':>10}  {'new / old':21}  noise"
    return "\n".join(["", title, head, *map(_shown, lines(part, rounds))])


def _shown(line: Line) -> str:
    head = f"{line.face} {_HEADS[line.figure]:19}{_number(line.new)}{_number(line.old)}"
    if line.ratio is None:
        return f"{head}  not measured: not above zero in each round"
    ratio = f"{line.ratio.middle:.3f} [{line.ratio.lowest:.3f}-{line.ratio.highest:.3f}]"
    return f"{head}  {ratio:21}  x{line.noise:.3f}  {line.change}"


def _number(value: float) -> str:
    return f"{value:10.2f}" if value < 100 else f"{value:10,.0f}"
