"""Waits that fail with a sentence."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

_PATIENCE = 10.0  # seconds; only a test that fails waits so long


async def soon(awaitable: Awaitable[T], what: str, seconds: float = _PATIENCE) -> T:
    """Return the result of `awaitable`. The test fails with `what` after some seconds."""
    try:
        async with asyncio.timeout(seconds) as limit:
            return await awaitable
    except TimeoutError:
        if not limit.expired():
            raise
        raise AssertionError(f"not within {seconds:g} s: {what}") from None


async def until(
    condition: Callable[[], Awaitable[bool]], what: str, seconds: float = _PATIENCE
) -> None:
    """Return when the condition holds, for what no event reports."""

    async def holds() -> None:
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    await soon(holds(), what, seconds)
