"""Entries: their equality, their idle timeouts, and the key of their starts."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from inference_service.capacity.claims import GpuNeed
from inference_service.key import Key
from inference_service.runtimes.command import Seat
from inference_service.serving.entry import Entry
from tests.fakes import FakeEngine, FakeRuntime, spec


def entry(model_id: str = "tiny", **changes: object) -> Entry:
    """An entry on its own fakes."""
    return Entry.of(spec(model_id).model_copy(update=changes), FakeRuntime(), FakeEngine())


@pytest.mark.parametrize(
    ("changes", "asked", "seconds"),
    [
        pytest.param({}, None, 900, id="the default"),
        pytest.param({"idle_timeout": 5.0}, None, 5, id="the entry's own"),
        pytest.param({"idle_timeout": 0.0}, None, 0, id="the entry's own, at once"),
        pytest.param({"idle_timeout": 5.0}, 60.0, 60, id="of a request, longer"),
        pytest.param({"idle_timeout": 5.0}, 0.0, 0, id="of a request, at once"),
        pytest.param({"pinned": True, "idle_timeout": 5.0}, None, math.inf, id="pinned"),
        pytest.param({"pinned": True}, 0.0, math.inf, id="pinned, whatever a request asks for"),
    ],
)
def test_the_idle_timeout(changes: dict[str, Any], asked: float | None, seconds: float) -> None:
    assert entry(**changes).idle_timeout(900, asked) == seconds


def test_the_engine_need_not_know_the_idle_timeout() -> None:
    first = entry()

    assert replace(first, spec=entry(idle_timeout=5.0, pinned=True).spec) == first
    assert replace(first, command=replace(first.command, env={"A": "1"})) != first
    assert replace(first, engine=FakeEngine()) != first
    assert replace(first, runtime=FakeRuntime()) != first


def test_starts_are_compared_with_those_of_the_same_model_image_and_runtime() -> None:
    class Other(FakeRuntime):
        name = "other"

    first = entry()
    image = replace(first, command=replace(first.command, image="another"))
    keys = [first, entry("small"), image, replace(first, runtime=Other())]

    assert len({each.start_key for each in keys}) == len(keys)
    assert entry(idle_timeout=5.0).start_key == first.start_key


@pytest.mark.parametrize("gives", [True, False])
def test_a_demand_has_gpus_where_the_runtime_gives_them(gives: bool) -> None:
    class Given(FakeRuntime):
        seat = Seat(in_container=True, has_gpu=gives)

    engine = FakeEngine()
    engine.gpu_needs = {"tiny": GpuNeed(30)}
    demand = Entry.of(spec("tiny"), Given(), engine).demand(Key("tiny", 2))

    assert demand.gpu_need == (GpuNeed(30) if gives else None)
    assert (demand.key, demand.memory_bytes) == (Key("tiny", 2), 64 * 2**20)
