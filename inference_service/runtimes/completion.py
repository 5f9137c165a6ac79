"""Work that is done to its end, also when the task that waits for it is cancelled."""

from __future__ import annotations

import asyncio
from typing import TypeVar

T = TypeVar("T")


async def completed(work: asyncio.Future[T]) -> T:
    """Wait for the work and return its result; raise a cancellation when the work has ended.

    An exception of the work is lost then. A second cancellation meanwhile is raised at once.
    """
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        if not work.cancelled():
            work.exception()  # else asyncio logs that the exception was never retrieved
        raise
