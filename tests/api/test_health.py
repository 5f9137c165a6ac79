"""The health of the service and of each model."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import replace

import pytest
from grpc_health.v1 import health_pb2

from inference_service.api.health import Health
from inference_service.errors import ModelNotFound
from inference_service.lifecycle import State, Status
from inference_service.serving.view import Removed
from tests.build import model as make_model
from tests.waiting import PROMPTLY, within

NAMES = {value: name for name, value in health_pb2.HealthCheckResponse.ServingStatus.items()}


async def check(health: Health, name: str) -> str:
    answer = await health.Check(health_pb2.HealthCheckRequest(service=name), None)
    return NAMES[answer.status]


def up() -> Health:
    health = Health()
    health.up(["", "service"], ["tiny"])
    return health


def change(health: Health, state: State) -> None:
    health.changed(replace(make_model().view(), status=Status(state)))


class Watcher:
    """A watcher, who reads when `may_read` is set."""

    def __init__(self, health: Health, name: str) -> None:
        self.seen: asyncio.Queue[str] = asyncio.Queue()
        self.may_read = asyncio.Event()
        self.may_read.set()
        request = health_pb2.HealthCheckRequest(service=name)
        self.task = asyncio.create_task(health.Watch(request, self))

    async def write(self, answer: health_pb2.HealthCheckResponse) -> None:
        await self.may_read.wait()
        self.seen.put_nowait(NAMES[answer.status])

    async def next(self) -> str:
        async with within(PROMPTLY, "no status came"):
            return await self.seen.get()


async def test_at_first_the_service_serves_and_no_model() -> None:
    health = up()

    shown = [await check(health, name) for name in ("", "service", "tiny")]
    assert shown == ["SERVING", "SERVING", "NOT_SERVING"]


@pytest.mark.parametrize("state", State)
async def test_a_model_serves_while_it_is_ready(state: State) -> None:
    health = up()
    change(health, state)

    serves = "SERVING" if state is State.READY else "NOT_SERVING"
    assert await check(health, "tiny") == serves


@pytest.mark.parametrize("name", ["other", "", "tiny"])
async def test_what_is_not_there_or_was_removed_is_not_found(name: str) -> None:
    health = Health()
    health.changed(Removed("tiny"))

    with pytest.raises(ModelNotFound):
        await check(health, name)


async def test_at_the_end_nothing_serves_whatever_changes() -> None:
    health = up()
    health.down()
    change(health, State.READY)

    shown = [await check(health, name) for name in ("", "service", "tiny")]
    assert shown == ["NOT_SERVING"] * 3


async def test_a_list_has_all_names() -> None:
    listed = await up().List(None, None)

    shown = {name: NAMES[answer.status] for name, answer in listed.statuses.items()}
    assert shown == {"": "SERVING", "service": "SERVING", "tiny": "NOT_SERVING"}


async def test_a_watcher_sees_each_change_and_the_end() -> None:
    health = up()
    watcher = Watcher(health, "tiny")
    assert await watcher.next() == "NOT_SERVING"
    change(health, State.READY)
    assert await watcher.next() == "SERVING"
    change(health, State.READY)  # which is no change
    health.changed(Removed("tiny"))
    assert await watcher.next() == "SERVICE_UNKNOWN"
    change(health, State.STARTING)
    assert await watcher.next() == "NOT_SERVING"
    change(health, State.READY)
    assert await watcher.next() == "SERVING"
    health.down()
    assert await watcher.next() == "NOT_SERVING"
    watcher.task.cancel()


async def test_an_unknown_name_is_watched_until_it_is_known_and_then_forgotten() -> None:
    health = up()
    watchers = [Watcher(health, f"new {number}") for number in range(100)]
    assert {await watcher.next() for watcher in watchers} == {"SERVICE_UNKNOWN"}
    health.up([], ["new 7"])
    assert await watchers[7].next() == "NOT_SERVING"
    await asyncio.sleep(0)
    assert len(health._changes) == 100
    tasks = [watcher.task for watcher in watchers]
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    del task, tasks, watchers
    gc.collect()
    assert not health._changes


async def test_a_watcher_that_does_not_read_delays_nobody_and_then_sees_the_newest_alone() -> None:
    health = up()
    slow, other = Watcher(health, "tiny"), Watcher(health, "tiny")
    assert [await slow.next(), await other.next()] == ["NOT_SERVING"] * 2
    slow.may_read.clear()
    change(health, State.READY)
    assert await other.next() == "SERVING"
    for state in (State.STOPPED, State.READY, State.STOPPED):
        change(health, state)
        await other.next()

    assert await check(health, "tiny") == "NOT_SERVING"
    slow.may_read.set()
    assert [await slow.next(), await slow.next()] == ["SERVING", "NOT_SERVING"]
    await asyncio.sleep(0)
    assert slow.seen.empty()
    slow.task.cancel()
    other.task.cancel()
