"""Waits for one result, and for conditions that are awaited themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tests.waiting import within

T = TypeVar("T")

_PATIENCE = 10.0  # seconds; only a test that fails waits so long


async def soon(awaitable: Awaitable[T], what: str, seconds: float = _PATIENCE) -> T:
    """Return the result of `awaitable`. The test fails with `what` after some seconds."""
    async with within(seconds, f"this did not happen: {what}"):
        return await awaitable


async def until(
    condition: Callable[[], Awaitable[bool]], what: str, seconds: float = _PATIENCE
) -> None:
    """Return when the condition holds, for what no event reports."""
    async with within(seconds, f"this did not happen: {what}"):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
