"""Turns at an engine: bounded, in order, and fair between callers."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from inference_service.capacity.admission import Admission
from inference_service.engines.base import Prompt
from inference_service.errors import DeadlineTooShort, EngineLost, QueueFull
from inference_service.serving.model import Supervisor, Timing
from inference_service.serving.slots import Turns
from tests.fakes import FakeEngine, FakeRuntime, spec


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_no_more_than_the_limit_at_once_and_in_order() -> None:
    turns = Turns("m", limit=2, size=10)
    had: list[int] = []

    async def use(number: int) -> None:
        await turns.take("one")
        had.append(number)

    users = [asyncio.create_task(use(number)) for number in range(5)]
    await settle()
    assert (had, turns.queued) == ([0, 1], 3)
    for expected in (3, 4, 5):
        turns.give()
        await settle()
        assert had == list(range(expected))
    await asyncio.gather(*users)
    assert turns.queued == 0


async def test_turns_go_round_between_callers() -> None:
    turns = Turns("m", limit=1, size=100)
    had: list[str] = []

    async def use(caller: str) -> None:
        await turns.take(caller)
        had.append(caller)

    await turns.take("x")
    users = [asyncio.create_task(use("greedy")) for _ in range(4)]
    await settle()
    users += [asyncio.create_task(use(caller)) for caller in ("modest", "other", "modest")]
    await settle()
    for _ in users:
        turns.give()
        await settle()

    assert had == ["greedy", "modest", "other", "greedy", "modest", "greedy", "greedy"]


async def test_whoever_leaves_the_queue_is_forgotten() -> None:
    turns = Turns("m", limit=1, size=2)
    await turns.take("a")
    leaver, stayer = (asyncio.create_task(turns.take("a")) for _ in range(2))
    await settle()
    leaver.cancel()
    await settle()
    assert turns.queued == 1

    turns.give()
    await stayer


async def test_a_turn_that_nobody_can_take_any_more_goes_on() -> None:
    turns = Turns("m", limit=1, size=2)
    await turns.take("a")
    leaver, stayer = (asyncio.create_task(turns.take("a")) for _ in range(2))
    await settle()
    turns.give()  # it is the leaver's turn, which is cancelled before it knows
    leaver.cancel()

    async with asyncio.timeout(1):
        await stayer
    assert turns.queued == 0


async def test_a_turn_goes_past_those_who_leave_at_that_moment() -> None:
    """As when a stop cuts all at once: who has the turn learns of it before who waits for it."""
    turns = Turns("m", limit=1, size=3)
    await turns.take("a")
    first, second, stayer = (asyncio.create_task(turns.take(caller)) for caller in "aab")
    await settle()
    first.cancel()
    second.cancel()
    turns.give()

    async with asyncio.timeout(1):
        await stayer
    assert first.cancelled()
    assert second.cancelled()
    assert turns.queued == 0
    turns.give()
    async with asyncio.timeout(1):
        await turns.take("a")


async def test_a_full_queue_refuses_and_says_when_to_come_again() -> None:
    turns = Turns("m", limit=1, size=1)
    await turns.take("a")
    waiter = asyncio.create_task(turns.take("a"))
    await settle()

    with pytest.raises(QueueFull, match="1 requests wait for m already") as refused:
        await turns.take("b")

    assert refused.value.retry_after is not None
    turns.give()
    await waiter


async def test_a_waiter_is_told_its_place_in_the_order_in_which_turns_will_come() -> None:
    turns = Turns("m", limit=1, size=100)
    await turns.take("x")
    told: dict[str, list[int]] = {}

    async def use(name: str) -> None:
        async def tell(place: int) -> None:
            told.setdefault(name, []).append(place)

        await turns.take(name[0], tell=tell)

    users = []
    for name in ("a1", "a2", "b1", "a3", "c1", "b2"):
        users.append(asyncio.create_task(use(name)))
        await settle()
    assert told == {"a1": [1], "a2": [2], "b1": [2], "a3": [4], "c1": [3], "b2": [5]}

    came = []
    for _ in users:
        turns.give()
        await settle()
        came += [n for n, user in zip(told, users, strict=True) if user.done() and n not in came]
    assert came == ["a1", "b1", "c1", "a2", "b2", "a3"]
    assert turns.queued == 0


async def test_a_waiter_is_told_when_its_place_has_changed() -> None:
    turns = Turns("m", limit=1, size=100)
    await turns.take("a")
    first = asyncio.create_task(turns.take("a"))
    await settle()
    places: asyncio.Queue[int] = asyncio.Queue()
    second = asyncio.create_task(turns.take("a", tell=places.put))
    assert await places.get() == 2

    turns.give()
    assert await places.get() == 1
    await first
    turns.give()
    await second
    assert places.empty()


async def test_a_waiter_who_cannot_be_told_leaves_the_queue() -> None:
    turns = Turns("m", limit=1, size=100)
    await turns.take("a")

    async def tell(_: int) -> None:
        raise ConnectionError("it has hung up")

    with pytest.raises(ConnectionError):
        await turns.take("a", tell=tell)
    assert turns.queued == 0


async def test_a_deadline_before_which_no_turn_will_come_is_refused() -> None:
    loop = asyncio.get_running_loop()
    turns = Turns("m", limit=1, size=100)
    await turns.take("a")
    users = [asyncio.create_task(turns.take("a")) for _ in range(9)]
    await settle()
    for _ in range(3):  # a turn takes a twentieth of a second
        await asyncio.sleep(0.05)
        turns.give()

    with pytest.raises(DeadlineTooShort, match="6 requests are before it") as refused:
        await turns.take("a", loop.time() + 0.1)
    assert refused.value.retry_after is not None
    assert 0.3 < refused.value.retry_after < 3
    patient = asyncio.create_task(turns.take("a", loop.time() + 60))
    await settle()
    assert turns.queued == 7
    for _ in range(7):
        turns.give()
    await asyncio.gather(*users, patient)


async def test_an_engine_has_no_more_requests_than_it_works_on() -> None:
    runtime, engine = FakeRuntime(), FakeEngine()
    supervisor = Supervisor(spec(), runtime, engine, Timing(poll=0.001), Admission(10**9))
    most = 0

    async def generate() -> None:
        nonlocal most
        prompt = Prompt("once", max_new_tokens=3)
        async with supervisor.lease() as lease, aclosing(lease.generate(prompt)) as chunks:
            async for _ in chunks:
                most = max(most, engine.open)
                await asyncio.sleep(0)

    await asyncio.gather(*(generate() for _ in range(500)))
    assert most == supervisor.launch.concurrency == 128
    assert supervisor.queued_count == 0
    await supervisor.close(0)


async def test_whoever_waits_when_the_engine_goes_is_told_at_once() -> None:
    turns = Turns("m", limit=1, size=10)
    await turns.take("a")
    places: asyncio.Queue[int] = asyncio.Queue()
    waiters = [asyncio.create_task(turns.take(caller)) for caller in ("a", "b")]
    waiters.append(asyncio.create_task(turns.take("c", tell=places.put)))
    await settle()

    turns.close(EngineLost("went"))
    ends = await asyncio.gather(*waiters, return_exceptions=True)
    assert [type(end) for end in ends] == [EngineLost] * 3
    assert turns.queued == 0
    turns.give()  # by the one who had a turn
