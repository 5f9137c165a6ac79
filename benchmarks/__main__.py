"""The command `python -m benchmarks`: measure the service and print the tables.

The figures go to benchmarks/results.json, which keeps the old figures of parts that do not run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import against, cold, embedded, growth, systems
from benchmarks.goals import STREAMS_PER_CORE, Outcome, judge
from benchmarks.load import Work
from benchmarks.rounds import (
    BURST,
    CONTROL,
    PACED,
    UNARY,
    UNARY_64,
    Capacity,
    Figures,
    Round,
    capacity,
    measure,
)
from benchmarks.systems import Running
from benchmarks.tables import shown

RESULTS = Path("benchmarks/results.json")

_ORDER = ("direct", "nginx", "httpx", "relay", "litellm", "grpc", CONTROL, "rest")

_COLUMNS = {
    "CPU us/token": "cpu_us_per_token",
    "CPU us/request": "cpu_us_per_request",
    "tokens/s": "tokens_per_second",
    "requests/s": "requests_per_second",
    "p50 added us": "added_p50_us",
    "token p99 us": "token_p99_us",
    "messages/1000": "messages_per_1000_tokens",
    "memory MB": "memory_mb",
}


PARTS: dict[str, Callable[[bool], dict[str, Any]]] = {
    "cold": lambda quick: cold.measure(3 if quick else 10, 5 if quick else 20),
    "embedded": lambda quick: embedded.measure(3 if quick else 8, 0.5 if quick else 2),
    "growth": lambda quick: growth.measure(3 if quick else 10),
}


def main() -> None:
    """Run the parts, print their tables and write their figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of peers, {', '.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="the core ratios, in three minutes")
    parser.add_argument("--against", metavar="FOLDER", help="compare with another checkout, alone")
    given = parser.parse_args()
    if given.against is not None:
        _against(parser, given)
        return
    parts = given.parts or ["peers", *([] if given.quick else PARTS)]
    if unknown := {*parts} - {"peers", *PARTS}:
        parser.error(f"no part is called {', '.join(sorted(unknown))}")
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for part in parts:
        began = time.monotonic()
        load_before = os.getloadavg()[0]
        print(f"{part}: load average {load_before:.2f}", flush=True)
        figures = _peers(given.quick) if part == "peers" else _other(part, given.quick)
        results[part] = {
            "machine": _machine(load_before),
            "seconds": round(time.monotonic() - began),
            "quick": given.quick,
            **figures,
        }
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        print(f"{results[part]['seconds']} s; {RESULTS} has all figures")


def _against(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    if given.parts:
        parser.error("--against measures no other part")
    try:
        old = against.checkout(given.against)
    except ValueError as error:
        parser.error(str(error))
    against.compare(old, given.quick)


def _other(part: str, quick: bool) -> dict[str, Any]:
    figures = PARTS[part](quick)
    print(shown(part, figures))
    return {"figures": figures}


def _peers(quick: bool) -> dict[str, Any]:
    """Measure the service beside its peers."""
    with (
        systems.engine() as engine,
        systems.running(engine.port, systems.peers()) as (found, absent),
    ):
        rounds = _measure(engine, found, quick)
        capacities = {} if quick else _climb(engine, found)
    outcomes = judge(rounds)
    middles = {work: _middles(measured) for work, measured in rounds.items()}
    for work, figures in middles.items():
        print(_table(work, figures))
    print(_capacity_table(capacities), _goal_table(outcomes), sep="\n")
    for name, reason in absent.items():
        print(f"not measured: {name}: {reason}")
    print(_engine_line(middles[BURST.name]))
    return {
        "versions": {name: running.system.version for name, running in found.items()},
        "absent": absent,
        "figures": {w: {n: _rounded(f) for n, f in m.items()} for w, m in middles.items()},
        "streams_per_core": {n: [asdict(c) for c in all] for n, all in capacities.items()},
        "goals": [_outcome(outcome) for outcome in outcomes],
    }


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


def _middles(rounds: list[Round]) -> Round:
    return {name: _middle([measured[name] for measured in rounds]) for name in rounds[0]}


def _middle(figures: list[Figures]) -> Figures:
    names = Figures.__slots__
    return replace(
        figures[0], **{name: median(getattr(figure, name) for figure in figures) for name in names}
    )


def _table(title: str, figures: Round) -> str:
    lines = [f"\n{title}", "system".ljust(10) + "".join(head.rjust(16) for head in _COLUMNS)]
    for name in sorted(figures, key=_ORDER.index):
        cells = (_shown(getattr(figures[name], column)) for column in _COLUMNS.values())
        lines.append(name.ljust(10) + "".join(cell.rjust(16) for cell in cells))
    return "\n".join(lines)


def _shown(value: float) -> str:
    if value != value or value < 0:  # not measured
        return "-"
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def _capacity_table(capacities: Mapping[str, list[Capacity]]) -> str:
    lines = []
    for name in sorted(capacities, key=_ORDER.index):
        passes = capacities[name]
        streams = sorted(each.streams for each in passes)
        last = passes[-1]
        goal = STREAMS_PER_CORE.get(name)
        lines.append(
            f"{name:10}{streams[len(streams) // 2]:6} streams of 20 tokens/s with p99 < 50 ms "
            f"(passes {streams}); at {last.failed_at or 'the top'}: p99 "
            f"{last.token_p99_us / 1000:.0f} ms, {last.core_share:.0%} of a core"
            + (f"; goal {goal}" if goal else "")
        )
    return "\n".join(["\nstreams per core", *lines]) if lines else ""


def _goal_table(outcomes: list[Outcome]) -> str:
    lines = ["\ngoals: ratio [range over rounds], A/A noise as a factor"]
    for outcome in outcomes:
        goal, ratio = outcome.goal, outcome.ratio
        bound = f"{'>=' if goal.at_least else '<='} {goal.bound:.3g}"
        if ratio is None:
            lines.append(f"{goal!s:72}{bound:>9}  not measured")
            continue
        shown = f"{ratio.middle:.3g} [{ratio.lowest:.3g}-{ratio.highest:.3g}]"
        lines.append(f"{goal!s:72}{bound:>9}  {shown:24} x{outcome.noise:.2f}  {outcome.verdict}")
    return "\n".join(lines)


def _engine_line(burst: Round) -> str:
    """Name the systems whose tokens/s the engine may limit: it shares a core with the load."""
    most = 1e6 / burst["direct"].cpu_us_per_token
    bound = [n for n, f in burst.items() if n != "direct" and f.tokens_per_second > most / 2]
    line = f"the engine alone could make {most:,.0f} tokens/s"
    if bound:
        line += f"; not twice as fast as {', '.join(bound)}, whose tokens/s are lower bounds"
    return line


def _rounded(figures: Figures) -> dict[str, float | None]:
    return {
        name: round(value, 3) if value == value and value >= 0 else None
        for name, value in asdict(figures).items()
    }


def _outcome(outcome: Outcome) -> dict[str, Any]:
    ratio = outcome.ratio
    return {
        "goal": str(outcome.goal),
        "bound": round(outcome.goal.bound, 4),
        "at_least": outcome.goal.at_least,
        "ratio": ratio
        and [round(ratio.middle, 4), round(ratio.lowest, 4), round(ratio.highest, 4)],
        "noise": round(outcome.noise, 3),
        "verdict": outcome.verdict or "not measured",
    }


def _machine(load_before: float) -> dict[str, Any]:
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "cpu": next(iter(models), platform.machine()),
        "cores": os.cpu_count(),
        "pinned": systems.PINNED,
        "python": platform.python_version(),
        "load_average_before": round(load_before, 2),
        "load_average_after": round(os.getloadavg()[0], 2),
    }


if __name__ == "__main__":
    main()
