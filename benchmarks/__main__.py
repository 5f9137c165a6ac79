"""The command `python -m benchmarks`: measure the service and print the tables.

The figures go to benchmarks/results.json, which keeps the old figures of parts that do not run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import against, chat, cold, embedded, growth, peers, systems
from benchmarks.tables import shown

RESULTS = Path("benchmarks/results.json")

# Both print their own tables.
BESIDE: dict[str, Callable[[bool], dict[str, Any]]] = {
    "peers": peers.compare,
    "chat": chat.compare,
}

ALONE: dict[str, Callable[[bool], dict[str, Any]]] = {
    "cold": lambda quick: cold.measure(3 if quick else 10, 5 if quick else 20),
    "embedded": lambda quick: embedded.measure(3 if quick else 8, 0.5 if quick else 2),
    "growth": lambda quick: growth.measure(3 if quick else 10),
}


def main() -> None:
    """Run the parts, print their tables and write their figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    known = [*BESIDE, *ALONE]
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(known)}")
    parser.add_argument("--quick", action="store_true", help="the core ratios, in three minutes")
    parser.add_argument("--against", metavar="FOLDER", help="compare with another checkout, alone")
    given = parser.parse_args()
    if given.against is not None:
        _against(parser, given)
        return
    parts = given.parts or (["peers"] if given.quick else known)
    if unknown := {*parts} - {*known}:
        parser.error(f"no part is called {', '.join(sorted(unknown))}")
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for part in parts:
        began = time.monotonic()
        load_before = os.getloadavg()[0]
        print(f"{part}: load average {load_before:.2f}", flush=True)
        figures = BESIDE[part](given.quick) if part in BESIDE else _alone(part, given.quick)
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


def _alone(part: str, quick: bool) -> dict[str, Any]:
    figures = ALONE[part](quick)
    print(shown(part, figures))
    return {"figures": figures}


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
