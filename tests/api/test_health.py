"""The health of the service and of each model."""

from __future__ import annotations

import asyncio
import gc

import pytest
from grpc_health.v1 import health_pb2

from inference_service.api.health import Health
from inference_service.errors import (
    InsufficientMemory,
    ModelNotFound,
    NotRunning,
    ServiceError,
    ShuttingDown,
    StartBackingOff,
)
from inference_service.serving.view import Removed
from tests.build import model as make_model
from tests.waiting import PROMPTLY, within

NAMES = {value: name for name, value in health_pb2.HealthCheckResponse.ServingStatus.items()}


async def check(health: Health, name: str) -> str:
    answer = await health.Check(health_pb2.HealthCheckRequest(service=name), None)
    return NAMES[answer.status]


class Refusals:
    """The refusals of the models, of which "tiny" has the one that a test sets."""

    def __init__(self) -> None:
        self.error: ServiceError | None = None

    def of(self, model_id: str) -> ServiceError | None:
        return self.error if model_id == "tiny" else None


REFUSALS = Refusals()


@pytest.fixture(autouse=True)
def _no_refusal() -> None:
    REFUSALS.error = None


def up() -> Health:
    health = Health()
    health.up(["", "service"], ["tiny"], REFUSALS.of)
    return health


def change(health: Health, refusal: ServiceError | None) -> None:
    REFUSALS.error = refusal
    health.changed(make_model().view())


REFUSED = InsufficientMemory("tiny", 2, 1)


class Watcher:
    """A watcher, who reads when `may_read` is set."""

    has_wire = False

    def __init__(self, health: Health, name: str) -> None:
        self.seen: asyncio.Queue[str] = asyncio.Queue()
        self.may_read = asyncio.Event()
        self.may_read.set()
        request = health_pb2.HealthCheckRequest(service=name)
        self.task = asyncio.create_task(health.Watch(request, self))

    async def send_initial_metadata(self, _: object) -> None:
        pass

    async def write(self, answer: health_pb2.HealthCheckResponse) -> None:
        await self.may_read.wait()
        self.seen.put_nowait(NAMES[answer.status])

    async def next(self) -> str:
        async with within(PROMPTLY, "no status came"):
            return await self.seen.get()


async def test_what_a_call_would_start_serves() -> None:
    health = up()

    shown = [await check(health, name) for name in ("", "service", "tiny")]
    assert shown == ["SERVING", "SERVING", "SERVING"]


async def test_a_model_that_refuses_its_calls_does_not_serve() -> None:
    health = up()
    change(health, REFUSED)
    assert await check(health, "tiny") == "NOT_SERVING"
    change(health, None)
    assert await check(health, "tiny") == "SERVING"


async def test_a_model_serves_again_when_its_back_off_is_over() -> None:
    health = up()
    watcher = Watcher(health, "tiny")
    assert await watcher.next() == "SERVING"
    change(health, StartBackingOff("tiny", 0.05, NotRunning("tiny")))
    assert await watcher.next() == "NOT_SERVING"
    REFUSALS.error = None

    assert await watcher.next() == "SERVING"
    watcher.task.cancel()


async def test_what_no_retry_mends_does_not_serve_until_something_changes() -> None:
    health = up()
    REFUSED.retry_after = 0.01
    change(health, REFUSED)
    await asyncio.sleep(0.05)
    REFUSALS.error = None

    assert await check(health, "tiny") == "NOT_SERVING"


@pytest.mark.parametrize("name", ["other", "", "tiny"])
async def test_what_is_not_there_or_was_removed_is_not_found(name: str) -> None:
    health = Health()
    health.changed(Removed("tiny"))

    with pytest.raises(ModelNotFound):
        await check(health, name)


async def test_at_the_end_nothing_serves_whatever_changes() -> None:
    health = up()
    change(health, StartBackingOff("tiny", 0.01, NotRunning("tiny")))
    health.down()
    change(health, None)
    await asyncio.sleep(0.05)

    shown = [await check(health, name) for name in ("", "service", "tiny")]
    assert shown == ["NOT_SERVING"] * 3


async def test_a_list_has_all_names() -> None:
    listed = await up().List(None, None)

    shown = {name: NAMES[answer.status] for name, answer in listed.statuses.items()}
    assert shown == {"": "SERVING", "service": "SERVING", "tiny": "SERVING"}


async def test_a_watcher_sees_each_change_and_the_end() -> None:
    health = up()
    watcher = Watcher(health, "tiny")
    assert await watcher.next() == "SERVING"
    change(health, REFUSED)
    assert await watcher.next() == "NOT_SERVING"
    change(health, REFUSED)  # which is no change
    health.changed(Removed("tiny"))
    assert await watcher.next() == "SERVICE_UNKNOWN"
    change(health, None)
    assert await watcher.next() == "SERVING"
    health.down()
    assert await watcher.next() == "NOT_SERVING"
    health.end()
    with pytest.raises(ShuttingDown):
        await watcher.task
    late = Watcher(health, "tiny")
    with pytest.raises(ShuttingDown):
        await late.task


async def test_an_unknown_name_is_watched_until_it_is_known_and_then_forgotten() -> None:
    health = up()
    watchers = [Watcher(health, f"new {number}") for number in range(100)]
    assert {await watcher.next() for watcher in watchers} == {"SERVICE_UNKNOWN"}
    health.up([], ["new 7"])
    assert await watchers[7].next() == "SERVING"
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
    assert [await slow.next(), await other.next()] == ["SERVING"] * 2
    slow.may_read.clear()
    for refusal in (REFUSED, None, REFUSED, None):
        change(health, refusal)
        await other.next()

    assert await check(health, "tiny") == "SERVING"
    slow.may_read.set()
    assert [await slow.next(), await slow.next()] == ["NOT_SERVING", "SERVING"]
    await asyncio.sleep(0)
    assert slow.seen.empty()
    slow.task.cancel()
    other.task.cancel()
