"""The queue itself, against a plain model of it: lists of lists."""

from __future__ import annotations

import time

from hypothesis import given, settings
from hypothesis import strategies as st

from inference_service.serving.queue import Caller, Queue

CALLERS: list[Caller] = [(a, b, c) for a in "xy" for b in "12" for c in "mn"]


def order(queue: Queue[int]) -> list[int]:
    """Take all items out, one after the other."""
    taken = []
    while queue.size:
        caller, item = queue.first()
        queue.remove(caller, item)
        queue.turn(caller)
        taken.append(item)
    return taken


@given(
    steps=st.lists(
        st.one_of(
            st.sampled_from(CALLERS),
            st.sampled_from(["take", "leave"]),
        ),
        max_size=60,
    ),
    chosen=st.integers(0, 59),
)
@settings(max_examples=300, deadline=None)
def test_positions_are_those_in_the_order_that_follows(
    steps: list[Caller | str], chosen: int
) -> None:
    queue: Queue[int] = Queue()
    waiting: dict[int, Caller] = {}
    for number, step in enumerate(steps):
        if isinstance(step, tuple):
            queue.add(step, number)
            waiting[number] = step
        elif waiting and step == "take":
            caller, item = queue.first()
            queue.remove(caller, item)
            queue.turn(caller)
            assert waiting.pop(item) == caller
        elif waiting:
            item = list(waiting)[chosen % len(waiting)]
            queue.remove(waiting.pop(item), item)
    assert queue.size == len(waiting)
    assert sorted(queue.items()) == sorted(waiting)
    assert all(queue.has(caller, item) for item, caller in waiting.items())

    positions = {queue.position(caller, item): item for item, caller in waiting.items()}
    assert [positions[n] for n in sorted(positions)] == order(queue)
    assert not queue._root.parts


@given(st.lists(st.sampled_from(CALLERS), min_size=2, max_size=40))
@settings(max_examples=200, deadline=None)
def test_the_surplus_is_the_last_of_who_has_most_at_each_level(arrivals: list[Caller]) -> None:
    queue: Queue[int] = Queue()
    for number, caller in enumerate(arrivals):
        queue.add(caller, number)

    caller, item = queue.surplus(arrivals[-1])

    assert item == max(number for number, each in enumerate(arrivals) if each == caller)
    for level in range(3):
        there = [each for each in arrivals if each[:level] == caller[:level]]
        counts = [sum(e[level] == name for e in there) for name in {e[level] for e in there}]
        assert sum(each[level] == caller[level] for each in there) == max(counts)


def test_what_is_not_in_the_queue_is_not_found() -> None:
    queue: Queue[int] = Queue()
    queue.add(("a", "b"), 1)

    assert not queue.has(("a", "b"), 2)
    assert not queue.has(("a", "c"), 1)
    assert not queue.has(("z", "b"), 1)


def test_a_full_queue_costs_little() -> None:
    """Each of 1,024 requests has a name of its own, the dearest case."""
    queue: Queue[int] = Queue()
    for number in range(1024):
        queue.add(("one", "", f"name {number}"), number)
    begin = time.perf_counter()
    for number in range(1024, 3072):
        caller, item = queue.first()
        queue.remove(caller, item)
        queue.turn(caller)
        queue.add(("one", "", f"name {number}"), number)
    assert (time.perf_counter() - begin) / 2048 < 0.0005
