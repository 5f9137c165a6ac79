"""Changes in order, for watchers of any speed."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from inference_service.serving.history import History


async def collect(history: History[int], after: int) -> list[int]:
    async with aclosing(history.after(after)) as changes:
        return [change.item async for change in changes]


async def test_a_watcher_gets_the_changes_since_a_revision_and_the_new_ones() -> None:
    history: History[int] = History()
    start = history.revision
    history.append(1)
    reader = asyncio.create_task(collect(history, start))
    await asyncio.sleep(0)
    for item in range(2, 500):
        history.append(item)
    history.close()

    assert await reader == list(range(1, 500))


async def test_the_changes_of_a_watcher_that_is_too_slow_end() -> None:
    history: History[int] = History(size=10)
    start = history.revision
    async with aclosing(history.after(start)) as changes:
        history.append(0)
        assert (await anext(changes)).item == 0
        for item in range(1, 30):
            history.append(item)
        assert await anext(changes, None) is None
    assert not history.keeps(start)
    assert history.keeps(history.revision)
    assert history.keeps(history.revision - 10)


async def test_revisions_of_an_earlier_service_are_not_kept() -> None:
    earlier: History[int] = History()
    for item in range(100):
        earlier.append(item)
    await asyncio.sleep(0.001)
    later: History[int] = History()
    later.append(0)

    assert not later.keeps(earlier.revision)
    assert not later.keeps(1)
    assert not later.keeps(later.revision + 1)
