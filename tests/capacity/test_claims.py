"""Claims on memory and GPUs: the ways to grant one, and the models that make room."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_service.capacity.claims import (
    MEMORY,
    Amounts,
    GpuNeed,
    Resident,
    Thing,
    choose,
    evictions,
    gpu_options,
)
from inference_service.capacity.nodes import LOCAL
from inference_service.key import Key


def thing(name: str) -> Thing:
    return Thing(LOCAL, name)


RAM = thing(MEMORY)
GPUS = (thing("gpu-a"), thing("gpu-b"), thing("gpu-c"))
sizes = st.integers(0, 6)
claims = st.fixed_dictionaries({RAM: sizes}, optional=dict.fromkeys(GPUS, sizes))


@st.composite
def machines(draw: st.DrawFn) -> tuple[Amounts, list[Resident]]:
    """Draw a machine and its models, which may exceed it: a limit may have been lowered."""
    capacity = {name: draw(st.integers(4, 16)) for name in (RAM, *GPUS)}
    residents = [
        Resident(
            Key(f"model-{n}"),
            claim,
            draw(st.booleans()),
            draw(st.floats(0, 9)),
            draw(st.booleans()),
        )
        for n, claim in enumerate(draw(st.lists(claims, max_size=5)))
    ]
    return capacity, residents


def fits(need: Amounts, capacity: Amounts, residents: list[Resident], gone: Iterable[Key]) -> bool:
    kept = [resident.amounts for resident in residents if resident.key not in gone]
    return all(sum(c.get(n, 0) for c in kept) + size <= capacity[n] for n, size in need.items())


def ways(need: Amounts, capacity: Amounts, residents: list[Resident]) -> list[tuple[Key, ...]]:
    """Return every set of evictable models whose eviction is enough."""
    may_go = [resident.key for resident in residents if resident.evictable]
    subsets = chain.from_iterable(combinations(may_go, n) for n in range(len(may_go) + 1))
    return [gone for gone in subsets if fits(need, capacity, residents, gone)]


@given(claims, machines())
def test_evictions_are_enough_and_none_of_them_is_needless(
    need: Amounts, machine: tuple[Amounts, list[Resident]]
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
    claims: list[Amounts], machine: tuple[Amounts, list[Resident]]
) -> None:
    capacity, residents = machine
    plan = choose(claims, capacity, residents)

    def latest(gone: tuple[Key, ...]) -> float:
        return max((r.used_at for r in residents if r.key in gone), default=-1)

    open_ways = [gone for claim in claims for gone in ways(claim, capacity, residents)]
    assert plan.amounts in claims
    assert plan.must_wait is not bool(open_ways)
    if open_ways:
        assert fits(plan.amounts, capacity, residents, plan.evicted)
        assert latest(plan.evicted) == min(map(latest, open_ways))


def resident(
    name: str,
    claim: dict[str, int],
    used_at: float = 0,
    settling: bool = False,
    evictable: bool = True,
) -> Resident:
    amounts = {thing(name): size for name, size in claim.items()}
    return Resident(Key(name), amounts, evictable, used_at, settling)


@pytest.mark.parametrize(
    ("residents", "chosen"),
    [
        pytest.param([], "gpu-b", id="the smaller of two that are free"),
        pytest.param([resident("a", {"gpu-b": 4})], "gpu-a", id="a free one"),
        pytest.param([resident("a", {"gpu-a": 14})], "gpu-a", id="the fuller one"),
        pytest.param(
            [resident("a", {"gpu-a": 19}, 2), resident("b", {"gpu-b": 6}, 1)],
            "gpu-b",
            id="the one with the least recently used model",
        ),
        pytest.param(
            [
                resident("kept", {"gpu-a": 11}, evictable=False),
                resident("a", {"gpu-a": 4}, 1),
                resident("b", {"gpu-a": 5}, 2),
                resident("c", {"gpu-b": 6}, 3),
            ],
            "gpu-a",
            id="the same, although it takes two evictions",
        ),
        pytest.param(
            [resident("a", {"gpu-a": 16, "gpu-b": 8}, 2), resident("b", {"gpu-b": 8}, 1)],
            "gpu-a",
            id="the one with fewer evictions",
        ),
        pytest.param(
            [resident("a", {"gpu-a": 20, "gpu-b": 3})], "gpu-b", id="the fuller one after that"
        ),
        pytest.param(
            [resident("a", {"gpu-b": 1}, settling=True)], "gpu-a", id="one without a start"
        ),
        pytest.param(
            [resident("a", {"gpu-b": 1}, settling=True), resident("b", {"gpu-a": 19})],
            "gpu-b",
            id="a wait for a start rather than an eviction",
        ),
    ],
)
def test_a_model_for_one_gpu_gets(residents: list[Resident], chosen: str) -> None:
    limits = {thing("gpu-a"): 20, thing("gpu-b"): 8}
    claims: list[Amounts] = [*gpu_options(GpuNeed(6), limits)]

    assert choose(claims, limits, residents).amounts == {thing(chosen): 6}


@pytest.mark.parametrize(
    ("need", "expected"),
    [
        pytest.param(GpuNeed(5), [{"c": 5}, {"a": 5}, {"b": 5}], id="any one, the smallest first"),
        pytest.param(GpuNeed(9), [{"a": 9}, {"b": 9}], id="any that is large enough"),
        pytest.param(GpuNeed(20), [{"a": 10, "b": 10}], id="two, whole"),
        pytest.param(GpuNeed(21), [], id="none: three are too small, too"),
        pytest.param(GpuNeed(15, counts=(3,)), [{"c": 6, "a": 10, "b": 10}], id="only three"),
        pytest.param(GpuNeed(15, counts=(1, 3)), [{"c": 6, "a": 10, "b": 10}], id="one or three"),
        pytest.param(GpuNeed(5, counts=(4, 8)), [], id="more than there are, by its counts"),
        pytest.param(GpuNeed(counts=(1,)), [{"a": 10}, {"b": 10}, {"c": 6}], id="one, and whole"),
        pytest.param(GpuNeed(counts=(1, 4)), [{"a": 10}, {"b": 10}, {"c": 6}], id="one, not four"),
        pytest.param(GpuNeed(counts=(4, 8)), [], id="four whole ones"),
        pytest.param(GpuNeed(15, 3), [{"c": 6, "a": 10, "b": 10}], id="three, as the need says"),
        pytest.param(GpuNeed(19, 3), [], id="three of which one is too small"),
        pytest.param(GpuNeed(15, 1), [], id="one, as the need says, and all are too small"),
        pytest.param(GpuNeed(), [{"a": 10, "b": 10, "c": 6}], id="all of them"),
        pytest.param(
            GpuNeed(count=1), [{"a": 10}, {"b": 10}, {"c": 6}], id="one whole, the largest first"
        ),
        pytest.param(GpuNeed(count=4), [], id="more than there are"),
    ],
)
def test_the_ways_to_give_a_model_its_gpus(need: GpuNeed, expected: list[dict[str, int]]) -> None:
    assert gpu_options(need, {"a": 10, "c": 6, "b": 10}) == expected


@pytest.mark.parametrize(
    ("gpus", "need", "counts", "given"),
    [
        (3, 25, (), 3),
        (5, 41, (), 5),
        (6, 35, (), 4),
        (6, 41, (), 6),
        (7, 61, (), 7),
        (7, 55, (), 6),
        (8, 45, (), 8),
        (12, 85, (), 12),
        (12, 85, (3, 6, 9), 9),
        (3, None, (), 3),
        (3, None, (1, 2, 4, 8, 16), 2),
        (7, None, (1, 2, 4, 8, 16), 4),
        (6, None, (1, 2, 3, 4, 6, 12), 6),
        (5, None, (1, 2, 3, 4, 6, 12), 4),
    ],
)
def test_any_number_of_gpus(
    gpus: int, need: int | None, counts: tuple[int, ...], given: int
) -> None:
    limits = {str(number): 10 for number in range(gpus)}
    options = gpu_options(GpuNeed(need, counts=counts), limits)
    assert {len(option) for option in options} == {given}


def test_as_many_are_spared_as_the_larger_one_makes_needless_and_no_more() -> None:
    residents = [
        resident(name, {MEMORY: size}, used_at)
        for name, size, used_at in (("a", 1, 1.0), ("b", 1, 2.0), ("c", 6, 3.0))
    ]

    assert evictions({RAM: 9}, {RAM: 10}, residents) == (Key("b"), Key("c"))
