"""Where a model runs and by which engine: the whole table. And who makes room for it."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_service.capacity.claims import (
    MEMORY,
    Claim,
    EngineSetting,
    GpuNeed,
    Resident,
    RuntimeSetting,
    choose,
    evictions,
    gpu_claims,
    place,
)
from inference_service.catalog import GgufWeights, HubWeights, LlamacppNeeds, ModelSpec, TgiNeeds

DOCKER_TGI, DOCKER_LLAMACPP = ("docker", "tgi"), ("docker", "llamacpp")
PROCESS_TGI, PROCESS_LLAMACPP = ("process", "tgi"), ("process", "llamacpp")

NEEDS: dict[str, Any] = {
    "tgi": TgiNeeds(memory="1GB", weights=HubWeights(repo="a/b")),  # type: ignore[arg-type]
    "llamacpp": LlamacppNeeds(
        memory="1GB",  # type: ignore[arg-type]
        weights=GgufWeights(repo="a/b", file="c.gguf"),
    ),
}


def spec(engines: str, named: Any = None) -> ModelSpec:
    needs = {name: NEEDS[name] for name in engines.split()}
    return ModelSpec(id="tiny", hf_name="tiny", context_length=128, engine=named, **needs)


BOTH, TGI, LLAMACPP = spec("tgi llamacpp"), spec("tgi"), spec("llamacpp")
SAYS_TGI, SAYS_LLAMACPP = spec("tgi llamacpp", "tgi"), spec("tgi llamacpp", "llamacpp")


@pytest.mark.parametrize(
    ("entry", "auto", "tgi", "llamacpp"),
    [
        pytest.param(BOTH, DOCKER_TGI, DOCKER_TGI, DOCKER_LLAMACPP, id="has both"),
        pytest.param(TGI, DOCKER_TGI, DOCKER_TGI, DOCKER_TGI, id="has tgi"),
        pytest.param(SAYS_TGI, DOCKER_TGI, DOCKER_TGI, DOCKER_TGI, id="names tgi"),
        pytest.param(
            SAYS_LLAMACPP, DOCKER_LLAMACPP, DOCKER_LLAMACPP, DOCKER_LLAMACPP, id="names llamacpp"
        ),
    ],
)
@pytest.mark.parametrize("runtime", ["auto", "docker"])
def test_in_docker_the_entry_decides_then_the_setting_then_tgi(
    runtime: RuntimeSetting,
    entry: ModelSpec,
    auto: tuple[str, str],
    tgi: tuple[str, str],
    llamacpp: tuple[str, str],
) -> None:
    assert place(entry, runtime, "auto", True) == auto
    assert place(entry, runtime, "tgi", True) == tgi
    assert place(entry, runtime, "llamacpp", True) == llamacpp


def test_auto_leaves_what_needs_no_image_to_a_process() -> None:
    assert place(LLAMACPP, "auto", "auto", True) == PROCESS_LLAMACPP
    assert place(LLAMACPP, "docker", "auto", True) == DOCKER_LLAMACPP


@pytest.mark.parametrize("engine", ["tgi", "llamacpp"])
def test_the_engine_of_models_that_have_both_moves_no_model_that_has_one(
    engine: EngineSetting,
) -> None:
    assert place(LLAMACPP, "docker", engine, True) == DOCKER_LLAMACPP
    assert place(LLAMACPP, "auto", engine, True) == PROCESS_LLAMACPP


@pytest.mark.parametrize(
    ("runtime", "docker_answers"), [("process", False), ("process", True), ("auto", False)]
)
@pytest.mark.parametrize("engine", ["auto", "tgi", "llamacpp"])
@pytest.mark.parametrize(
    ("entry", "placed"),
    [
        pytest.param(BOTH, PROCESS_LLAMACPP, id="has both"),
        pytest.param(LLAMACPP, PROCESS_LLAMACPP, id="has llamacpp"),
        pytest.param(SAYS_TGI, PROCESS_LLAMACPP, id="names tgi"),
        pytest.param(SAYS_LLAMACPP, PROCESS_LLAMACPP, id="names llamacpp"),
        pytest.param(TGI, PROCESS_TGI, id="has tgi, which the process will refuse"),
    ],
)
def test_a_process_is_llamacpp_wherever_the_entry_has_it(
    runtime: RuntimeSetting,
    docker_answers: bool,
    engine: EngineSetting,
    entry: ModelSpec,
    placed: tuple[str, str],
) -> None:
    assert place(entry, runtime, engine, docker_answers) == placed


GPUS = ("gpu-a", "gpu-b", "gpu-c")

sizes = st.integers(0, 6)
claims = st.fixed_dictionaries({MEMORY: sizes}, optional=dict.fromkeys(GPUS, sizes))


@st.composite
def machines(draw: st.DrawFn) -> tuple[Claim, list[Resident]]:
    """A machine with models in it, which need not fit: a limit may have been lowered."""
    capacity = {name: draw(st.integers(4, 16)) for name in (MEMORY, *GPUS)}
    residents = [
        Resident(
            f"model-{n}", claim, draw(st.booleans()), draw(st.floats(0, 9)), draw(st.booleans())
        )
        for n, claim in enumerate(draw(st.lists(claims, max_size=5)))
    ]
    return capacity, residents


def fits(need: Claim, capacity: Claim, residents: list[Resident], gone: Iterable[str]) -> bool:
    stay = [resident.claim for resident in residents if resident.model_id not in gone]
    return all(sum(c.get(n, 0) for c in stay) + size <= capacity[n] for n, size in need.items())


def ways(need: Claim, capacity: Claim, residents: list[Resident]) -> list[tuple[str, ...]]:
    """Every set of models that may go and whose going is enough."""
    may_go = [resident.model_id for resident in residents if resident.evictable]
    subsets = chain.from_iterable(combinations(may_go, n) for n in range(len(may_go) + 1))
    return [gone for gone in subsets if fits(need, capacity, residents, gone)]


@given(claims, machines())
def test_evictions_are_enough_and_none_of_them_is_needless(
    need: Claim, machine: tuple[Claim, list[Resident]]
) -> None:
    capacity, residents = machine
    chosen = evictions(need, capacity, residents)

    enough = ways(need, capacity, residents)
    if chosen is None:
        assert enough == []
        return
    assert any(set(chosen) == set(gone) for gone in enough)
    for one in chosen:
        assert not fits(need, capacity, residents, set(chosen) - {one})


@given(st.lists(claims, min_size=1, max_size=4), machines())
def test_of_several_ways_in_the_one_is_chosen_that_ends_the_oldest_uses(
    claims: list[Claim], machine: tuple[Claim, list[Resident]]
) -> None:
    capacity, residents = machine
    plan = choose(claims, capacity, residents)

    def latest(gone: tuple[str, ...]) -> float:
        return max((r.used_at for r in residents if r.model_id in gone), default=-1)

    open_ways = [gone for claim in claims for gone in ways(claim, capacity, residents)]
    assert plan.claim in claims
    assert plan.must_wait is not bool(open_ways)
    if open_ways:
        assert fits(plan.claim, capacity, residents, plan.evicted)
        assert latest(plan.evicted) == min(map(latest, open_ways))


def resident(name: str, claim: Claim, used_at: float = 0, settling: bool = False) -> Resident:
    return Resident(name, claim, True, used_at, settling)


@pytest.mark.parametrize(
    ("residents", "chosen"),
    [
        pytest.param([], "gpu-b", id="the smaller of two that are free"),
        pytest.param([resident("a", {"gpu-b": 4})], "gpu-a", id="a free one"),
        pytest.param([resident("a", {"gpu-a": 14})], "gpu-a", id="the fuller one"),
        pytest.param(
            [resident("a", {"gpu-a": 19}, 2), resident("b", {"gpu-b": 6}, 1)],
            "gpu-b",
            id="the one whose model was used longest ago",
        ),
        pytest.param(
            [
                Resident("kept", {"gpu-a": 11}, False, 0),
                resident("a", {"gpu-a": 4}, 1),
                resident("b", {"gpu-a": 5}, 2),
                resident("c", {"gpu-b": 6}, 3),
            ],
            "gpu-a",
            id="that one, even at the price of two",
        ),
        pytest.param(
            [resident("a", {"gpu-a": 16, "gpu-b": 8}, 2), resident("b", {"gpu-b": 8}, 1)],
            "gpu-a",
            id="the one where fewer have to go",
        ),
        pytest.param(
            [resident("a", {"gpu-a": 20, "gpu-b": 3})], "gpu-b", id="the fuller one after that"
        ),
        pytest.param(
            [resident("a", {"gpu-b": 1}, settling=True)], "gpu-a", id="one where nobody starts"
        ),
        pytest.param(
            [resident("a", {"gpu-b": 1}, settling=True), resident("b", {"gpu-a": 19})],
            "gpu-b",
            id="a wait for a start rather than an eviction",
        ),
    ],
)
def test_a_model_for_one_gpu_gets(residents: list[Resident], chosen: str) -> None:
    limits = {"gpu-a": 20, "gpu-b": 8}
    claims = gpu_claims(GpuNeed(6), limits)

    assert choose(claims, limits, residents).claim == {chosen: 6}


@pytest.mark.parametrize(
    ("need", "expected"),
    [
        pytest.param(GpuNeed(5), [{"c": 5}, {"a": 5}, {"b": 5}], id="any one, the smallest first"),
        pytest.param(GpuNeed(9), [{"a": 9}, {"b": 9}], id="any that is large enough"),
        pytest.param(GpuNeed(20), [{"a": 10, "b": 10}], id="two, whole"),
        pytest.param(GpuNeed(21), [], id="never: it cannot be cut in three"),
        pytest.param(GpuNeed(15, 3), [{"c": 6, "a": 10, "b": 10}], id="three that it asks for"),
        pytest.param(GpuNeed(19, 3), [], id="three of which one is too small"),
        pytest.param(GpuNeed(15, 1), [], id="one that it asks for, and that is too small"),
        pytest.param(GpuNeed(), [{"a": 10, "b": 10, "c": 6}], id="all of them"),
        pytest.param(
            GpuNeed(count=1), [{"a": 10}, {"b": 10}, {"c": 6}], id="one whole, the largest first"
        ),
        pytest.param(GpuNeed(count=4), [], id="more than there are"),
    ],
)
def test_the_ways_to_give_a_model_its_gpus(need: GpuNeed, expected: list[Claim]) -> None:
    assert gpu_claims(need, {"a": 10, "c": 6, "b": 10}) == expected
