"""One run of a model: who waits for it, who uses it, and whether it is still wanted."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine
from typing import Any

from inference_service.runtimes.base import Instance
from inference_service.serving.slots import Turns


class Life:
    """One run of the model, from the first wish for it until nothing is left."""

    def __init__(self, idle_timeout: float, turns: Turns) -> None:
        self.clock = asyncio.get_running_loop().time
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[Instance] = loop.create_future()
        self.gone: asyncio.Future[None] = loop.create_future()
        self.unwanted = asyncio.Event()
        self.cut_at = math.inf  # when a stop ends what still runs
        self.replaced = False  # another begins when it is gone, by another entry of the catalog
        self.adopts = False  # its engine ran before it began
        self.dying = False  # its engine has ended, and is being removed
        self.leases: set[asyncio.Timeout] = set()
        self.turns = turns  # of those who have a lease
        self.waiters = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self.idle_timeout = idle_timeout
        self.ready_at = math.inf
        self.used_at = math.inf  # READY, or the end of the last request; never before READY
        self.parked = False  # nobody watches the idle time, since the model is in use
        self.rearm = asyncio.Event()  # the watcher of the idle time has to look again
        for future in (self.ready, self.gone):  # an error that nobody waits for is in the log
            future.add_done_callback(lambda done: done.cancelled() or done.exception())

    @property
    def in_use(self) -> bool:
        """Whether somebody has it, or is about to."""
        return bool(self.leases or self.waiters)

    def idle_at(self) -> float:
        """When it will have been unused for too long; never, while it is in use."""
        return math.inf if self.in_use else self.used_at + self.idle_timeout


async def race(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Run all until one ends, then cancel the others; raise the first error, of whichever it is."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled() and (error := task.exception()):
            raise error
