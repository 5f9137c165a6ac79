"""Evictions that a later, larger one makes needless."""

from __future__ import annotations

from inference_service.capacity.claims import MEMORY, Resident, evictions


def test_as_many_are_spared_as_the_larger_one_makes_needless_and_no_more() -> None:
    residents = [
        Resident(name, {MEMORY: size}, True, used_at)
        for name, size, used_at in (("a", 1, 1.0), ("b", 1, 2.0), ("c", 6, 3.0))
    ]

    assert evictions({MEMORY: 9}, {MEMORY: 10}, residents) == ("b", "c")
