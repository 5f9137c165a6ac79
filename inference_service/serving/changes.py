"""The changes of a model's status, for callers who wait."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from inference_service.lifecycle import Status

# Awaited with the model's status, and the queue position of the caller (1 is next; 0 before that).
Notify = Callable[[Status, int], Awaitable[None]]


class Changes:
    """The changes of what `status` returns; `note` is called at each of them."""

    def __init__(self, status: Callable[[], Status]) -> None:
        self._status = status
        self._change = asyncio.Event()

    def note(self) -> None:
        """Wake all who wait for a change."""
        self._change.set()
        self._change = asyncio.Event()

    async def next(self) -> None:
        """Return at the next change."""
        await self._change.wait()

    async def until(
        self, future: asyncio.Future[Any], notify: Notify | None, heartbeat: float
    ) -> None:
        """Return when `future` is done, and pass the status on until then.

        `notify` is awaited at first, at each change, and after each `heartbeat` (seconds). A change
        is noted when the future is done.
        """
        while not future.done():
            if notify is None:
                await asyncio.wait([future])
                return
            change = self._change
            await notify(self._status(), 0)
            with contextlib.suppress(TimeoutError):  # in silence, proxies close the connection
                async with asyncio.timeout(heartbeat):
                    await change.wait()
