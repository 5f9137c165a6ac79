"""A clock of the test's own."""

from __future__ import annotations

import asyncio
import math
import selectors
from collections.abc import Coroutine
from typing import Any

TICK = 1e-6  # a timer is late by so many seconds, and so never early by rounding


class ManualLoop(asyncio.SelectorEventLoop):
    """A loop without waiting: `run` returns when nothing is left to do at the time it is then."""

    def __init__(self) -> None:
        self._now = self._until = 1000.0
        self._turns = math.inf
        self.tasks: set[asyncio.Task[Any]] = set()  # those that are not done
        super().__init__(_Still(self))
        self.set_task_factory(self._make)

    def _make(self, _: object, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        task = asyncio.Task[Any](coroutine, loop=self, **options)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def time(self) -> float:
        return self._now

    def run(self, seconds: float = 0, turns: float = math.inf) -> None:
        """Let so much time pass, or make only so many turns at the time it is."""
        self._until = self._now + seconds
        self._turns = turns
        self.run_forever()

    def waits(self, timeout: float | None) -> None:
        """What the selector is asked, at each turn, instead of waiting for `timeout` seconds."""
        self._turns -= 1
        if timeout != 0:
            due = math.inf if timeout is None else self._now + timeout + TICK
            if due > self._until + 2 * TICK:
                due = self._until
                self.stop()
            self._now = max(due, self._now)
        if self._turns <= 0:
            self.stop()


class _Still(selectors.SelectSelector):
    def __init__(self, loop: ManualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._loop.waits(timeout)
        return []


def on_manual_time(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run it to its end, without waiting."""
    loop = ManualLoop()
    try:
        task = loop.create_task(coroutine)
        loop.run(seconds=3600)
        assert task.done()
        task.result()
    finally:
        loop.close()
