"""The slots of an engine: bounded, in order, and fair between callers."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable
from contextlib import aclosing
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_service.engines.base import Prompt
from inference_service.errors import DeadlineTooShort, EngineLost, QueueFull
from inference_service.serving.slots import NotifyPosition, Slots
from tests.build import chunks
from tests.build import model as make_model
from tests.fakes import FakeEngine, FakeRuntime, spec
from tests.waiting import PROMPTLY, SLOWLY, within


class Limited(Slots[str]):
    """Slots of one engine that works on `limit` requests at once."""

    def __init__(self, model_id: str, limit: int, size: int, **times: float) -> None:
        super().__init__(model_id, self._take, lambda _: self._drop(), size, **times)  # type: ignore[arg-type]
        self._limit = limit
        self._used = 0

    async def take(  # type: ignore[override]
        self, caller: str, deadline: float = math.inf, notify: NotifyPosition | None = None
    ) -> str:
        """Wait for a slot, as a caller whose levels of names are separated by slashes."""
        return await super().take(tuple(caller.split("/")), deadline, notify)

    def give(self) -> None:
        """Give a slot back, as a caller does."""
        self._drop()
        self.serve()

    def _take(self) -> str | None:
        if self._used == self._limit:
            return None
        self._used += 1
        return "slot"

    def _drop(self) -> None:
        self._used -= 1


async def settle() -> None:
    """Let each task that can run do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def comes_to(callers: Awaitable[object]) -> None:
    """Return when the callers have their slots."""
    async with within(PROMPTLY, "not every slot came"):
        await callers


async def test_slots_come_in_the_order_of_arrival_and_up_to_the_limit() -> None:
    slots = Limited("m", 2, 10, heartbeat=10)
    had: list[int] = []

    async def use(number: int) -> None:
        await slots.take("one")
        had.append(number)

    users = [asyncio.create_task(use(number)) for number in range(5)]
    await settle()
    assert (had, slots.queued) == ([0, 1], 3)
    for expected in (3, 4, 5):
        slots.give()
        await settle()
        assert had == list(range(expected))
    await comes_to(asyncio.gather(*users))
    assert slots.queued == 0


async def test_slots_go_round_robin_between_callers() -> None:
    slots = Limited("m", 1, 100, heartbeat=10)
    had: list[str] = []

    async def use(caller: str) -> None:
        await slots.take(caller)
        had.append(caller)

    await slots.take("x")
    users = [asyncio.create_task(use("greedy")) for _ in range(4)]
    await settle()
    users += [asyncio.create_task(use(caller)) for caller in ("modest", "other", "modest")]
    await settle()
    for _ in users:
        slots.give()
        await settle()

    assert had == ["greedy", "modest", "other", "greedy", "modest", "greedy", "greedy"]


async def test_a_caller_that_is_cancelled_leaves_the_queue() -> None:
    slots = Limited("m", 1, 2, heartbeat=10)
    await slots.take("a")
    leaver, stayer = (asyncio.create_task(slots.take("a")) for _ in range(2))
    await settle()
    leaver.cancel()
    await settle()
    assert slots.queued == 1

    slots.give()
    await comes_to(stayer)


async def test_the_slot_of_a_caller_that_is_cancelled_goes_to_the_next() -> None:
    slots = Limited("m", 1, 2, heartbeat=10)
    await slots.take("a")
    leaver, stayer = (asyncio.create_task(slots.take("a")) for _ in range(2))
    await settle()
    slots.give()  # to the leaver, which is cancelled before its task runs again
    leaver.cancel()

    await comes_to(stayer)
    assert slots.queued == 0


async def test_a_slot_passes_over_callers_that_are_cancelled_in_the_same_iteration() -> None:
    """A stop cuts all leases at once; a slot is given back before those who wait are cancelled."""
    slots = Limited("m", 1, 3, heartbeat=10)
    await slots.take("a")
    first, second, stayer = (asyncio.create_task(slots.take(caller)) for caller in "aab")
    await settle()
    first.cancel()
    second.cancel()
    slots.give()

    await comes_to(stayer)
    assert first.cancelled()
    assert second.cancelled()
    assert slots.queued == 0
    slots.give()
    await comes_to(slots.take("a"))


async def test_a_full_queue_refuses_with_the_time_to_retry() -> None:
    slots = Limited("m", 1, 1, heartbeat=10)
    await slots.take("a")
    waiter = asyncio.create_task(slots.take("a"))
    await settle()

    with pytest.raises(QueueFull, match="1 requests wait for m already") as refused:
        await slots.take("b")

    assert refused.value.retry_after is not None
    slots.give()
    await comes_to(waiter)


async def arrivals(slots: Limited, *callers: str) -> dict[str, asyncio.Task[str]]:
    """Let requests of these callers arrive, one after the other; return them by name and number."""
    tasks: dict[str, asyncio.Task[str]] = {}
    for number, caller in enumerate(callers):
        tasks[f"{caller} {number}"] = asyncio.create_task(slots.take(caller))
        await settle()
    return tasks


def refused(tasks: dict[str, asyncio.Task[str]]) -> list[str]:
    return [name for name, task in tasks.items() if task.done() and task.exception()]


async def test_slots_go_round_between_addresses_and_within_one_between_names() -> None:
    slots = Limited("m", 1, 100, heartbeat=10)
    had: list[str] = []

    async def use(caller: str) -> None:
        await slots.take(caller)
        had.append(caller)

    await slots.take("x/x")
    names = ["evil/1", "evil/2", "evil/3", "evil/4", "evil/4", "good/1", "good/1", "good/2"]
    users = []
    for name in names:
        users.append(asyncio.create_task(use(name)))
        await settle()
    for _ in users:
        slots.give()
        await settle()
    await comes_to(asyncio.gather(*users))

    assert had == [
        "evil/1", "good/1", "evil/2", "good/2", "evil/3", "good/1", "evil/4", "evil/4",
    ]  # fmt: skip


async def test_in_a_full_queue_who_has_most_makes_room_for_who_comes() -> None:
    slots = Limited("m", 1, 6, heartbeat=10)
    await slots.take("x")
    greedy = await arrivals(slots, *["greedy"] * 6)
    modest = await arrivals(slots, "modest", "modest", "other", "modest")

    assert refused(greedy) == ["greedy 3", "greedy 4", "greedy 5"]
    assert refused(modest) == [
        "modest 3"
    ]  # it has as many as the greedy one by then, and came last
    for task in greedy.values():
        if task.done():
            assert "made room for another caller" in str(task.exception())
    assert slots.queued == 6
    for _ in range(6):
        slots.give()
        await settle()
    assert slots.queued == 0
    assert len(refused(greedy) + refused(modest)) == 4


async def test_a_thousand_names_at_one_address_keep_no_other_address_out() -> None:
    slots = Limited("m", 1, 1000, heartbeat=10)
    await slots.take("x/x")
    evil = await arrivals(slots, *(f"evil/{name}" for name in range(1000)))
    more = await arrivals(slots, "evil/new")
    good = await arrivals(slots, "good/1")

    assert (len(refused(evil)), refused(more), refused(good)) == (1, ["evil/new 0"], [])
    slots.give()
    slots.give()  # to one name of the evil address, and then to the good one
    await comes_to(good["good/1 0"])
    slots.close(DEAD)
    await asyncio.wait([*evil.values()])


async def test_a_name_that_has_most_at_its_address_makes_room_there() -> None:
    slots = Limited("m", 1, 5, heartbeat=10)
    await slots.take("x/x")
    greedy = await arrivals(slots, *["office/greedy"] * 4, "home/one")
    colleague = await arrivals(slots, "office/colleague")

    assert (refused(greedy), refused(colleague)) == (["office/greedy 3"], [])
    slots.close(DEAD)
    await asyncio.wait([*greedy.values(), *colleague.values()])


async def test_the_queue_position_is_that_in_the_order_in_which_slots_come() -> None:
    slots = Limited("m", 1, 100, heartbeat=10)
    await slots.take("x")
    reported: dict[str, list[int]] = {}

    async def use(name: str) -> None:
        async def notify(position: int) -> None:
            reported.setdefault(name, []).append(position)

        await slots.take(name[0], notify=notify)

    users = []
    for name in ("a1", "a2", "b1", "a3", "c1", "b2"):
        users.append(asyncio.create_task(use(name)))
        await settle()
    assert reported == {"a1": [1], "a2": [2], "b1": [2], "a3": [4], "c1": [3], "b2": [5]}

    came = []
    for _ in users:
        slots.give()
        await settle()
        came += [
            n for n, user in zip(reported, users, strict=True) if user.done() and n not in came
        ]
    assert came == ["a1", "b1", "c1", "a2", "b2", "a3"]
    assert slots.queued == 0


async def test_a_change_of_the_position_is_reported() -> None:
    slots = Limited("m", 1, 100, heartbeat=10)
    await slots.take("a")
    first = asyncio.create_task(slots.take("a"))
    await settle()
    positions: asyncio.Queue[int] = asyncio.Queue()
    second = asyncio.create_task(slots.take("a", notify=positions.put))
    async with within(PROMPTLY, "the positions were not reported"):
        assert await positions.get() == 2
        slots.give()
        assert await positions.get() == 1
    await comes_to(first)
    slots.give()
    await comes_to(second)
    assert positions.empty()


async def test_a_position_that_does_not_change_is_reported_again() -> None:
    slots = Limited("m", 1, 100, look=0.001, heartbeat=0.05)
    await slots.take("a")
    clock = asyncio.get_running_loop().time
    reports: list[tuple[int, float]] = []
    third = asyncio.Event()

    async def notify(position: int) -> None:
        reports.append((position, clock()))
        if len(reports) == 3:
            third.set()

    waiting = asyncio.create_task(slots.take("a", notify=notify))
    async with within(SLOWLY, "the position was not reported three times"):
        await third.wait()

    assert [position for position, _ in reports] == [1, 1, 1]
    times = [at for _, at in reports]
    assert all(later - sooner >= 0.05 for sooner, later in pairwise(times))
    slots.give()
    await comes_to(waiting)


NAMES = ["a/1", "b/1", "a/2", "c/1", "b/2", "a/3", "d/1"]


class Positions:
    """A queue behind one slot, and the order in which its requests have come."""

    def __init__(self) -> None:
        self.slots = Limited("m", 1, 1000, heartbeat=10, look=1000)
        self.reported: dict[str, int] = {}
        self.came: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def arrive(self, caller: str) -> None:
        """Add one more request of this caller to the queue."""
        name = f"{caller} {len(self.tasks)}"

        async def wait() -> None:
            async def notify(position: int) -> None:
                self.reported[name] = position

            await self.slots.take(caller, notify=notify)
            self.came.append(name)

        self.tasks.append(asyncio.create_task(wait()))
        await settle()

    async def give(self) -> None:
        """Give the slot back, so that the next request gets it."""
        self.slots.give()
        await settle()


@given(
    served=st.lists(st.sampled_from(NAMES[:5]), max_size=6),
    waiting=st.lists(st.sampled_from(NAMES), min_size=1, max_size=12),
    passed=st.integers(0, 6),
)
@settings(max_examples=200, deadline=None)
def test_the_position_of_the_last_arrival_is_when_its_slot_comes(
    served: list[str], waiting: list[str], passed: int
) -> None:
    async def check() -> None:
        queue = Positions()
        await queue.slots.take("x/x")
        for caller in served:
            await queue.arrive(caller)
        for _ in range(min(passed, len(served))):
            await queue.give()
        for caller in waiting:
            await queue.arrive(caller)
        last = f"{waiting[-1]} {len(queue.tasks) - 1}"
        before = len(queue.came)
        for _ in range(len(queue.tasks) - before):
            await queue.give()

        assert queue.reported[last] == queue.came.index(last) - before + 1
        await comes_to(asyncio.gather(*queue.tasks))

    asyncio.run(check())


async def test_a_caller_whose_report_fails_leaves_the_queue() -> None:
    slots = Limited("m", 1, 100, heartbeat=10)
    await slots.take("a")

    async def notify(_: int) -> None:
        raise ConnectionError("the caller has hung up")

    with pytest.raises(ConnectionError):
        await slots.take("a", notify=notify)
    assert slots.queued == 0


async def test_a_deadline_before_which_no_slot_will_come_is_refused() -> None:
    loop = asyncio.get_running_loop()
    slots = Limited("m", 1, 100, heartbeat=10)
    await slots.take("a")
    users = [asyncio.create_task(slots.take("a")) for _ in range(9)]
    await settle()
    for _ in range(3):  # a slot takes a twentieth of a second
        await asyncio.sleep(0.05)
        slots.give()

    with pytest.raises(DeadlineTooShort, match="6 requests are before it") as refused:
        await slots.take("a", loop.time() + 0.1)
    assert refused.value.retry_after is not None
    assert 0.3 < refused.value.retry_after < 3
    patient = asyncio.create_task(slots.take("a", loop.time() + 60))
    await settle()
    assert slots.queued == 7
    for _ in range(7):
        slots.give()
    await comes_to(asyncio.gather(*users, patient))


async def test_an_engine_gets_no_more_requests_at_once_than_it_has_slots() -> None:
    runtime, engine = FakeRuntime(), FakeEngine()
    model = make_model(spec(), runtime, engine)
    most = 0

    async def generate() -> None:
        nonlocal most
        prompt = Prompt("once", max_new_tokens=3)
        async with model.lease() as lease, aclosing(chunks(lease, prompt)) as text:
            async for _ in text:
                most = max(most, engine.open)
                await asyncio.sleep(0)

    async with within(SLOWLY, "not every request had a slot"):
        await asyncio.gather(*(generate() for _ in range(500)))
    assert most == model.entry.command.concurrency == 128
    assert model.view().queued_count == 0
    await model.close(0)


async def test_requests_in_the_queue_of_an_engine_that_dies_end_at_once() -> None:
    slots = Limited("m", 1, 10, heartbeat=10)
    await slots.take("a")
    positions: asyncio.Queue[int] = asyncio.Queue()
    waiters = [asyncio.create_task(slots.take(caller)) for caller in ("a", "b")]
    waiters.append(asyncio.create_task(slots.take("c", notify=positions.put)))
    await settle()

    slots.close(EngineLost("went"))
    async with within(PROMPTLY, "not every request in the queue was ended"):
        ends = await asyncio.gather(*waiters, return_exceptions=True)
    assert [type(end) for end in ends] == [EngineLost] * 3
    assert slots.queued == 0
    slots.give()  # by the request that had a slot


DEAD = EngineLost("is dead")


async def waiting(slots: Limited, deadline: float = float("inf")) -> asyncio.Task[str]:
    task = asyncio.create_task(slots.take("caller", deadline))
    await asyncio.sleep(0)
    return task


async def test_whoever_comes_after_the_end_gets_its_error() -> None:
    slots = Limited("tiny", 1, 1, heartbeat=10)
    slots.close(DEAD)

    with pytest.raises(EngineLost):
        await slots.take("caller")


async def test_a_slot_that_comes_at_the_moment_of_the_end_is_not_used() -> None:
    slots = Limited("tiny", 1, 1, heartbeat=10)
    await slots.take("first")
    waiter = await waiting(slots)
    slots.give()
    slots.close(DEAD)

    with pytest.raises(EngineLost):
        await waiter
    assert slots.queued == 0


async def test_the_time_in_which_nobody_waited_is_no_pace() -> None:
    slots = Limited("tiny", 1, 2, heartbeat=10)
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
