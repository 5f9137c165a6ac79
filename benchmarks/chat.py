"""`/v1/chat/completions` beside the routers of others, and typed streams: the part `chat`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks import proxies, systems
from benchmarks.goals import CHAT_GOALS, judge
from benchmarks.load import Work
from benchmarks.report import report
from benchmarks.rounds import BURST, PACED, UNARY, UNARY_64, Round, measure
from benchmarks.systems import Running

_CONTROL = "chat"
_TYPED = ("grpc-floor", "grpc", "rest")
_LAST = "nginx"  # has no goal, so one visit in a round is enough


def compare(quick: bool) -> dict[str, Any]:
    """Measure, print the tables, and return what the file of results has."""
    lineup = [*proxies.chat(), *proxies.typed()]
    with (
        systems.engine("chat") as engine,
        systems.running(engine.port, lineup) as (found, absent),
    ):
        rounds = _measure(engine, found, quick)
    return report(found, absent, rounds, judge(rounds, CHAT_GOALS, _CONTROL))


def _measure(engine: Running, found: Mapping[str, Running], quick: bool) -> dict[str, list[Round]]:
    plan: list[tuple[Work, int, float]] = [
        (UNARY, 3 if quick else 8, 0.3 if quick else 0.5),
        (UNARY_64, 3 if quick else 8, 0.3 if quick else 0.5),
        (BURST, 3 if quick else 8, 0.3 if quick else 0.5),
        (PACED, 2 if quick else 3, 0),
    ]
    rounds = {}
    for work, count, seconds in plan:
        chosen = _chosen(engine, found, work)
        print(f"{work.name}: {count} rounds of {len(chosen)} systems", flush=True)
        rounds[work.name] = measure(chosen, work, count, seconds, _CONTROL)
    return rounds


def _chosen(engine: Running, found: Mapping[str, Running], work: Work) -> dict[str, Running]:
    """Return the systems of some work, in the order of visits.

    The typed faces are for paced streams alone, in which the engine would take 3 s of each visit.
    """
    if work is PACED:
        chosen = dict(found)
    else:
        chosen = {
            n: running for n, running in {"direct": engine, **found}.items() if n not in _TYPED
        }
    if _LAST in chosen:
        chosen[_LAST] = chosen.pop(_LAST)
    return chosen
