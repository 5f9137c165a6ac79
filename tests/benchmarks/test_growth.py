"""Tests of the measurements of growth."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import growth
from benchmarks.systems import Running


@pytest.mark.slow
def test_the_part_as_a_whole(engine: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = {"MODELS": (1, 3), "WATCHERS": (2,), "PROMPTS": (10, 1_000), "REPLIES": (1, 3)}
    for name, value in {**tiny, "READERS": 1, "_SECONDS": 0}.items():
        monkeypatch.setattr(growth, name, value)

    found = growth.measure(slow_seconds=1)

    assert [*found] == ["slow readers", "watchers", "models", "prompt bytes", "reply tokens"]
    for sizes in found["prompt bytes"], found["reply tokens"]:
        visits = [[len(face["CPU us"]) for face in faces.values()] for faces in sizes.values()]
        assert visits == [[2, 2], [1, 1]]
    assert [*found["prompt bytes"], *found["reply tokens"]] == ["10", "1,000", "1", "3"]
    assert [*found["models"]] == [1, 3]
    assert all(len(figures["ListModels us"]) == 20 for figures in found["models"].values())
    assert found["watchers"]["2"]["told CPU us for each"] > 0
    for figures in found["slow readers"].values():
        assert max(figures["MB full"]) - figures["MB before"] < 50, "the service keeps the text"


class Service:
    """A service whose CPU clock shows the given seconds, one for each look."""

    def __init__(self, *looks: float) -> None:
        self._looks = iter(looks)

    def cpu_seconds(self) -> float:
        return next(self._looks)


async def test_a_visit_has_three_calls_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    now, takes = 0.0, iter((1, 9, 2))
    monkeypatch.setattr(time, "perf_counter", lambda: now)

    async def ask(prompt: str, tokens: int) -> int:
        nonlocal now
        now += next(takes)
        return tokens

    client: Any = SimpleNamespace(command=Service(5.0, 5.003))
    cpu, latency = await growth._visit(client, ask, "x", 16)

    assert cpu == pytest.approx(1_000)
    assert latency == 2e6


async def test_a_text_that_lacks_a_token_is_not_measured() -> None:
    async def ask(prompt: str, tokens: int) -> int:
        return tokens - 1

    client: Any = SimpleNamespace(command=Service(0.0))
    with pytest.raises(AssertionError, match="15 of 16 tokens came"):
        await growth._visit(client, ask, "x", 16)
