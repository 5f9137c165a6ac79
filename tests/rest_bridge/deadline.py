"""A deadline that fails a test with a sentence."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest


@asynccontextmanager
async def within(seconds: float, missing: str) -> AsyncIterator[None]:
    """Fail with the sentence `missing` when the block takes longer than `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        pytest.fail(f"{missing} within {seconds:g} s")
