"""Slots of an engine that has died, and the pace of one that was idle."""

from __future__ import annotations

import asyncio

import pytest

from inference_service.errors import EngineLost
from inference_service.serving.slots import Slots

DEAD = EngineLost("is dead")


async def waiting(slots: Slots, deadline: float = float("inf")) -> asyncio.Task[None]:
    task = asyncio.create_task(slots.take("caller", deadline))
    await asyncio.sleep(0)
    return task


async def test_whoever_comes_after_the_end_gets_its_error() -> None:
    slots = Slots("tiny", 1, 1, heartbeat=10)
    slots.close(DEAD)

    with pytest.raises(EngineLost):
        await slots.take("caller")


async def test_a_slot_that_comes_at_the_moment_of_the_end_is_not_used() -> None:
    slots = Slots("tiny", 1, 1, heartbeat=10)
    await slots.take("first")
    waiter = await waiting(slots)
    slots.give()
    slots.close(DEAD)

    with pytest.raises(EngineLost):
        await waiter
    assert slots.queued == 0


async def test_the_time_in_which_nobody_waited_is_no_pace() -> None:
    slots = Slots("tiny", 1, 2, heartbeat=10)
    for _ in range(2):
        await slots.take("first")
        waiter = await waiting(slots)
        slots.give()
        await waiter
        slots.give()  # nobody waits
        await asyncio.sleep(0.05)
    await slots.take("first")

    soon = asyncio.get_running_loop().time() + 0.02
    waiter = await waiting(slots, soon)
    assert not waiter.done()  # and not refused
    slots.give()
    await waiter
