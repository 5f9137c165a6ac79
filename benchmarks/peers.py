"""The service beside its peers, on its typed faces: the part `peers`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from benchmarks import proxies, systems, tables
from benchmarks.goals import judge
from benchmarks.load import Work
from benchmarks.report import report
from benchmarks.rounds import (
    BURST,
    PACED,
    UNARY,
    UNARY_64,
    Capacity,
    Round,
    capacity,
    measure,
    middles,
)
from benchmarks.systems import Running


def compare(quick: bool) -> dict[str, Any]:
    """Measure, print the tables, and return what the file of results has."""
    with (
        systems.engine() as engine,
        systems.running(engine.port, proxies.peers()) as (found, absent),
    ):
        rounds = _measure(engine, found, quick)
        capacities = {} if quick else _climb(engine, found)
    record = report(found, absent, rounds, judge(rounds))
    print(tables.of_capacities(capacities), _engine_line(middles(rounds[BURST.name])), sep="\n")
    kept = {name: [asdict(each) for each in passes] for name, passes in capacities.items()}
    return {**record, "streams_per_core": kept}


def _measure(engine: Running, found: Mapping[str, Running], quick: bool) -> dict[str, list[Round]]:
    everybody = {"direct": engine, **found}
    compared = {name: found[name] for name in ("grpc", "rest", "litellm") if name in found}
    plan: list[tuple[Work, Mapping[str, Running], int, float]] = [
        (UNARY, everybody, 3 if quick else 8, 0.3 if quick else 1.0),
        (UNARY_64, everybody, 3 if quick else 8, 0.3 if quick else 1.0),
        (BURST, everybody, 2 if quick else 8, 0.5 if quick else 1.0),
        (PACED, compared if quick else everybody, 2 if quick else 4, 0),
    ]
    rounds = {}
    for work, chosen, count, seconds in plan:
        print(f"{work.name}: {count} rounds of {len(chosen)} systems", flush=True)
        rounds[work.name] = measure(chosen, work, count, seconds)
    return rounds


def _climb(engine: Running, found: Mapping[str, Running]) -> dict[str, list[Capacity]]:
    """Climb the ladder with each system, in three passes over all of them.

    A loud moment of the machine meets one pass of a system at most.
    """
    passes: dict[str, list[Capacity]] = {}
    for number in range(3):
        for name, running in {"direct": engine, **found}.items():
            print(f"streams per core, pass {number + 1}: {name}", flush=True)
            passes.setdefault(name, []).append(capacity(running))
    return passes


def _engine_line(burst: Round) -> str:
    """Name the systems whose tokens/s the engine may limit: it shares a core with the load."""
    most = 1e6 / burst["direct"].cpu_us_per_token
    bound = [n for n, f in burst.items() if n != "direct" and f.tokens_per_second > most / 2]
    line = f"the engine alone could make {most:,.0f} tokens/s"
    if bound:
        line += f"; not twice as fast as {', '.join(bound)}, whose tokens/s are lower bounds"
    return line
