"""Waits that fail with a sentence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

PROMPTLY = 5.0  # seconds, on a busy machine too
SLOWLY = 60.0  # seconds, for what may take a while
WHOLE = 100.0  # seconds, for a whole test: more than for each wait, less than pytest's 120


@asynccontextmanager
async def within(seconds: float, missing: str) -> AsyncGenerator[None]:
    """Fail with the sentence `missing` when the block takes longer than `seconds`."""
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            yield
    except TimeoutError:
        assert not limit.expired(), f"{missing} within {seconds:g} s"
        raise


async def until(condition: Callable[[], object], missing: str, seconds: float = 10.0) -> None:
    """Return when the condition holds, for what no event reports."""
    async with within(seconds, missing):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
