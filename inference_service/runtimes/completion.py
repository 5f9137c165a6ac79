"""Work that is done to its end, although whoever waits for it is cancelled."""

from __future__ import annotations

import asyncio
from typing import TypeVar

T = TypeVar("T")


async def completed(work: asyncio.Future[T]) -> T:
    """Its result. A cancellation of the caller is raised when it has ended.

    What the work raises is lost then. A second cancellation meanwhile is raised at once.
    """
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        if not work.cancelled():
            work.exception()  # seen
        raise
