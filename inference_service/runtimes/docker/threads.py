"""Threads for calls that can hang."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")

_Work = SimpleQueue[Callable[[], None] | None]


class Threads:
    """A pool of at most so many threads.

    The end of the process does not wait for them, as it does for those of `concurrent.futures`: a
    call to a daemon that hangs would hold it up. Each thread ends when it has no work, once the
    pool is closed or nobody has it any more.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._work: _Work = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._count = 0
        self.close = weakref.finalize(self, _end, self._work, most)

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Do the work in the next thread that is free."""
        future: Future[T] = Future()

        def do() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)

        self._work.put(do)
        if not self._idle.acquire(blocking=False) and self._count < self._most:
            self._count += 1
            name = f"{self._name}_{self._count}"
            own = (self._work, self._idle)
            threading.Thread(target=_serve, name=name, args=own, daemon=True).start()
        return future


def _serve(work: _Work, idle: threading.Semaphore) -> None:
    while (do := work.get()) is not None:
        do()
        del do  # it holds the result
        idle.release()


def _end(work: _Work, count: int) -> None:
    for _ in range(count):
        work.put(None)
