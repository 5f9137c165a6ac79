"""Work that is done to its end, although a task that waits is cancelled."""

from __future__ import annotations

import asyncio
from typing import TypeVar

T = TypeVar("T")


async def completed(work: asyncio.Future[T]) -> T:
    """Return the result of the work; raise a cancellation when the work has ended.

    An exception of the work is lost then. A second cancellation meanwhile is raised at once.
    """
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        # Without it asyncio logs that the exception was never retrieved.
        work.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.wait([work])
        raise
