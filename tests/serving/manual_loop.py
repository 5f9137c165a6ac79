"""An event loop on a manual clock."""

from __future__ import annotations

import asyncio
import math
import selectors
from collections.abc import Coroutine
from typing import Any

TICK = 1e-6  # seconds by which each timer is late, so that none is early by rounding


class ManualLoop(asyncio.SelectorEventLoop):
    """A loop that does not wait: `run` returns when no task can run at the time that it reaches.

    `tasks` are those that are not done, and `faults` the errors of runs of a model, which have to
    end without one.
    """

    def __init__(self) -> None:
        self._now = self._until = 1000.0
        self._iterations = math.inf
        self.tasks: set[asyncio.Task[Any]] = set()
        self.faults: list[BaseException] = []
        super().__init__(_NoWait(self))
        self.set_task_factory(self._make)

    def _make(self, _: object, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        task = asyncio.Task[Any](coroutine, loop=self, **options)
        self.tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        if task.get_name().startswith("run of") and not task.cancelled():
            self.faults += filter(None, [task.exception()])

    def time(self) -> float:
        return self._now

    def run(self, seconds: float = 0, iterations: float = math.inf) -> None:
        """Let so many seconds pass, or make only so many iterations at the present time."""
        self._until = self._now + seconds
        self._iterations = iterations
        self.run_forever()

    def advance(self, timeout: float | None) -> None:
        """Set the clock on, in each iteration, in place of a wait of `timeout` seconds."""
        self._iterations -= 1
        if timeout != 0:
            due = math.inf if timeout is None else self._now + timeout + TICK
            if due > self._until + 2 * TICK:
                due = self._until
                self.stop()
            self._now = max(due, self._now)
        if self._iterations <= 0:
            self.stop()


class _NoWait(selectors.SelectSelector):
    """A selector that advances the clock of the loop in place of a wait."""

    def __init__(self, loop: ManualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._loop.advance(timeout)
        return []


def on_manual_time(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end, on the clock of a ManualLoop."""
    loop = ManualLoop()
    try:
        task = loop.create_task(coroutine)
        loop.run(seconds=3600)
        assert task.done(), "the coroutine did not end within an hour of manual time"
        task.result()
    finally:
        loop.close()
