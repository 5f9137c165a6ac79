"""The service of another checkout (old) beside the service of this one (new), in one run.

The new service runs twice, as two processes: what these two differ by is the noise of the run. The
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
_SERVICES = ("", "-old", "-control")  # what follows the face in the name of a system
_PROCESSES = 3  # times that all services are started: no two processes are equally fast
_ROUNDS = 3  # of each process at least; 99 % of certainty needs eight rounds in all


@dataclass(frozen=True, slots=True)
class Part:
    """Some work, and the figures that are compared; `visit` and `total` are seconds."""

    work: Work
    figures: tuple[str, ...]
    visit: float
    total: float


# In a burst the engine takes most of the time of a text, so that the part of the service is lost in
# the noise of the engine's. Paced tokens have a time of their own; how many come is the engine's.
PLAN = (
    Part(UNARY, ("cpu_us_per_request", "requests_per_second", "added_p50_us"), 0.1, 30),
    Part(UNARY_64, ("cpu_us_per_request", "requests_per_second", "added_p50_us"), 0.1, 30),
    Part(BURST, ("cpu_us_per_token", "tokens_per_second", "request_p50_us"), 0.1, 30),
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
    """One figure of one face: its medians, new / old, the noise, and the verdict on it.

    `ratio` is None where a round has a figure that is not above zero.
    """

    face: str
    figure: str
    new: float
    old: float
    ratio: Ratio | None
    noise: float
    change: Change | None


def checkout(folder: str) -> Path:
    """The path of a checkout. Raises ValueError with a sentence if the folder is none."""
    path = Path(folder).resolve()
    if not path.is_dir():
        raise ValueError(f"there is no folder {folder}")
    if missing := [name for name in _NEEDED if not (path / name).is_file()]:
        raise ValueError(f"{folder} is no checkout of this service: it has no {missing[0]}")
    return path


def compare(old: Path, quick: bool) -> None:
    """Measure, and print the table. Exits with a sentence if a service does not start."""
    for name, folder in {"new": NEW, "old": old}.items():
        print(f"{name}: {folder} {systems.version(folder)}")
    rounds: dict[str, list[Round]] = {part.work.name: [] for part in PLAN}
    for number in range(_PROCESSES):
        print(f"processes {number + 1} of {_PROCESSES}", flush=True)
        with _serving(old) as (engine, found):
            for part in PLAN:
                seconds = part.total / _PROCESSES * (1 if quick else 3)
                rounds[part.work.name] += _measured(engine, found, part, seconds)
    print("\nnew / old: median [99 %], noise as a factor (the new service against itself)")
    for part in PLAN:
        print(table(part, rounds[part.work.name]))


@contextmanager
def _serving(old: Path) -> Iterator[tuple[Running, dict[str, Running]]]:
    """The engine, and all services in front of it."""
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
    """Rounds of the work, until the seconds are over."""
    ends = time.monotonic() + seconds
    requests = {name: enough(running, part.work, part.visit) for name, running in found.items()}
    for face in FACES:  # new and old do the same
        requests |= {face + suffix: requests[face] for suffix in _SERVICES}
    requests["direct"] = enough(engine, part.work, part.visit)
    rounds: list[Round] = []
    while len(rounds) < _ROUNDS or time.monotonic() < ends:
        visited = {name: found[name] for name in order(len(rounds))}
        rounds.append(one_round({**visited, "direct": engine}, part.work, requests))
    return rounds


def order(number: int) -> list[str]:
    """The services as a round visits them: each of a face comes first, second and third in turn.

    The first of a round was also the last of the round before, and finds its code in the caches.
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
    """The lines of some work as text."""
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
