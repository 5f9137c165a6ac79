"""Removals that failed and are retried."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

import pytest

from inference_service.errors import LaunchError, RuntimeUnavailable
from inference_service.key import Key
from inference_service.runtimes.docker.removal import PendingRemovals

Attempt = Callable[[], Awaitable[None]]


@pytest.fixture
async def pending() -> AsyncGenerator[PendingRemovals]:
    pending = PendingRemovals(interval=0)
    yield pending
    await pending.cancel_all()


def attempts(*outcomes: Exception | None) -> tuple[Attempt, list[Exception | None]]:
    """Make an attempt with these outcomes, and the list of those it had."""
    had: list[Exception | None] = []

    async def attempt() -> None:
        had.append(outcomes[len(had)])
        if (error := had[-1]) is not None:
            raise error

    return attempt, had


async def until_gone(pending: PendingRemovals, key: Key) -> None:
    for _ in range(100):
        if key not in pending:
            return
        await asyncio.sleep(0)
    pytest.fail(f"the removal for {key} is still pending")


async def test_a_removal_is_retried_until_it_succeeds(
    pending: PendingRemovals, caplog: pytest.LogCaptureFixture
) -> None:
    outcomes = (RuntimeUnavailable("away"), LaunchError("busy"), None)
    attempt, had = attempts(*outcomes)

    pending.add(Key("tiny"), "tgi-tiny", attempt)
    assert Key("tiny") in pending
    assert Key("other") not in pending
    await until_gone(pending, Key("tiny"))

    assert had == [*outcomes]
    assert "the container tgi-tiny has been removed at last" in caplog.text


async def test_a_removal_is_retried_after_a_fault_too(
    pending: PendingRemovals, caplog: pytest.LogCaptureFixture
) -> None:
    attempt, had = attempts(KeyError("a fault"), None)

    pending.add(Key("tiny"), "tgi-tiny", attempt)
    await until_gone(pending, Key("tiny"))

    assert len(had) == 2
    assert "fault in the removal of tgi-tiny" in caplog.text


async def test_the_first_retry_comes_after_the_interval() -> None:
    pending = PendingRemovals(interval=600)
    attempt, had = attempts(None)
    pending.add(Key("tiny"), "tgi-tiny", attempt)
    for _ in range(10):
        await asyncio.sleep(0)

    assert Key("tiny") in pending
    assert had == []
    await pending.cancel_all()


async def test_a_removal_can_be_cancelled_and_others_go_on(pending: PendingRemovals) -> None:
    cancelled, none = attempts(None)
    attempt, had = attempts(None)
    pending.add(Key("tiny"), "tgi-tiny", cancelled)
    pending.add(Key("other"), "tgi-other", attempt)

    await pending.cancel(Key("tiny"))
    await pending.cancel(Key("unknown"))
    assert Key("tiny") not in pending
    await until_gone(pending, Key("other"))

    assert none == []
    assert had == [None]


async def test_a_cancelled_attempt_has_ended_when_cancel_returns(pending: PendingRemovals) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def attempt() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.set()

    pending.add(Key("tiny"), "tgi-tiny", attempt)
    await begun.wait()
    await pending.cancel(Key("tiny"))

    assert ended.is_set()


async def test_a_removal_that_is_not_sure_is_looked_after_once_more(
    pending: PendingRemovals,
) -> None:
    """A daemon that hung may make the container only then."""
    attempt, had = attempts(LaunchError("busy"), None, None)
    pending.add(Key("tiny"), "tgi-tiny", attempt, sure=False)
    await until_gone(pending, Key("tiny"))
    assert len(had) == 2
    attempt_of_gone, had_of_gone = attempts(None)
    pending.add(Key("gone"), "tgi-gone", attempt_of_gone, gone=True, sure=False)
    assert Key("gone") not in pending

    for _ in range(20):
        await asyncio.sleep(0)
    assert (len(had), len(had_of_gone)) == (3, 1)


async def test_what_is_given_up_is_said(caplog: pytest.LogCaptureFixture) -> None:
    pending = PendingRemovals(interval=600)
    attempt, _ = attempts(None)
    pending.add(Key("left"), "tgi-left", attempt)
    pending.add(Key("gone"), "tgi-gone", attempt, gone=True, sure=False)

    await pending.cancel_all()

    assert [record.args for record in caplog.records] == [("tgi-left",)]


async def test_all_can_be_cancelled() -> None:
    pending = PendingRemovals(interval=600)
    attempt, had = attempts(None)
    for key in (Key("one"), Key("two")):
        pending.add(key, f"tgi-{key}", attempt)

    await pending.cancel_all()

    assert Key("one") not in pending
    assert Key("two") not in pending
    assert had == []
