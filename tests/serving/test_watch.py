"""Watchers from the snapshot to the end, and what an adopted start teaches."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import aclosing

import pytest

from inference_service.catalog import Catalog
from inference_service.errors import ShuttingDown
from inference_service.key import Key
from inference_service.lifecycle import State
from inference_service.runtimes.command import Command
from inference_service.serving.entry import Entry
from inference_service.serving.history import History
from inference_service.serving.models import Models
from inference_service.serving.start_times import StartTimes
from inference_service.serving.view import View
from tests.build import QUICK, machine
from tests.fakes import FakeEngine, FakeRuntime, spec
from tests.waiting import PROMPTLY, until, within


class Bed:
    """Two models, whose engines survive another service."""

    def __init__(self) -> None:
        class Haunted(FakeRuntime):
            async def survivors(
                self, commands: Mapping[str, Command]
            ) -> dict[Key, tuple[str, ...]]:
                return dict.fromkeys(map(Key, commands), ())

        runtime, engine = Haunted(), FakeEngine()
        self.start_times = StartTimes()
        self.models = Models(
            Catalog([spec("tiny"), spec("small")]),
            lambda spec: Entry.of(spec, runtime, engine),
            QUICK,
            machine(10**9),
            self.start_times,
        )


async def test_a_change_during_the_snapshot_comes_after_it() -> None:
    bed = Bed()
    revisions: list[int] = []
    async with within(PROMPTLY, "a change was lost"), aclosing(bed.models.watch(0)) as changes:
        async for change in changes:
            revisions.append(change.revision)
            if len(revisions) == 1:  # the snapshot has yet to show the other model
                bed.models.find("tiny").begin()
            if isinstance(change.item, View) and change.item.status.state is State.READY:
                break

    first = revisions[2]
    assert revisions == [0, 0, *range(first, revisions[-1] + 1)]
    await bed.models.close(0)


async def test_a_watch_ends_with_the_service() -> None:
    bed = Bed()

    async def watch() -> None:
        async with aclosing(bed.models.watch(0)) as changes:
            async for _ in changes:
                pass

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0)
    await bed.models.close(0)

    async with within(PROMPTLY, "the watch did not end"):
        with pytest.raises(ShuttingDown):
            await watching


async def test_a_reader_that_waits_is_woken_by_the_end() -> None:
    history: History[int] = History()

    async def read() -> None:
        async with aclosing(history.after(history.revision)) as changes:
            async for _ in changes:
                pass

    reading = asyncio.create_task(read())
    await asyncio.sleep(0)
    history.close()

    async with within(PROMPTLY, "the reader was not woken"):
        await reading


async def test_the_start_of_an_adopted_engine_teaches_nothing() -> None:
    bed = Bed()
    await bed.models.adopt()
    tiny = bed.models.find("tiny")
    await until(lambda: tiny.status.state is State.READY, "the engine was not adopted")

    assert bed.start_times.past(tiny.entry.start_key) == {}
    await bed.models.close(0)


async def test_a_watcher_that_is_too_slow_gets_a_snapshot_that_it_can_tell_from_changes() -> None:
    bed = Bed()
    bed.models._history = History(size=4)
    tiny = bed.models.find("tiny")
    async with aclosing(bed.models.watch(0)) as changes:
        first = [await anext(changes) for _ in range(3)]
        await tiny.start()
        await tiny.stop(0)
        second = [await anext(changes) for _ in range(3)]
        async with aclosing(bed.models.watch(first[-1].revision)) as again:
            third = [await anext(again) for _ in range(3)]

    for snapshot in (first, second, third):
        assert [change.revision == 0 for change in snapshot] == [True, True, False]
        assert snapshot[-1].item is None
    assert third[-1].revision == second[-1].revision > first[-1].revision
    await bed.models.close(0)


async def test_a_watch_of_one_model_resumes_at_its_last_change() -> None:
    bed = Bed()
    async with aclosing(bed.models.watch(0, "tiny")) as changes:
        seen = [await anext(changes) for _ in range(2)]
        for model_id in ("small", "tiny"):
            await bed.models.find(model_id).start()
        while not isinstance(view := seen[-1].item, View) or view.status.state is not State.READY:
            seen.append(await anext(changes))
    async with aclosing(bed.models.watch(seen[2].revision, "tiny")) as changes:
        assert [await anext(changes) for _ in seen[3:]] == seen[3:]

    assert {change.item.id for change in seen if change.item} == {"tiny"}
    await bed.models.close(0)
