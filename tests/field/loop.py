"""The longest callback of the loop that serves both faces."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

LONGEST = 0.050  # seconds
_ATTEMPTS = 8  # another program on the same core can make one slower, and none makes one faster


class Watch:
    """The CPU time of the loop's thread in each callback, which a busy machine does not add to."""

    def __init__(self) -> None:
        self._longest = 0.0
        self._what = ""
        self._run = asyncio.Handle._run

    def step(self, handle: asyncio.Handle) -> None:
        start = time.thread_time()
        self._run(handle)
        if (taken := time.thread_time() - start) > self._longest:
            self._longest, self._what = taken, repr(handle)

    async def stall(self, ask: Callable[[], Any]) -> str:
        """Ask in another thread; describe the longest callback, if all attempts had a long one."""
        for _ in range(_ATTEMPTS):
            self._longest = 0.0
            await asyncio.to_thread(ask)
            await asyncio.sleep(0)
            if self._longest <= LONGEST:
                return ""
        return f"{self._longest * 1000:.0f} ms in {self._what[:200]}"


@contextmanager
def watched() -> Iterator[Watch]:
    """Watch the loops of this process, which keeps its old objects from the collector."""
    watch = Watch()
    gc.collect()
    gc.freeze()
    run: Any = lambda handle: watch.step(handle)  # noqa: E731
    asyncio.Handle._run = run  # type: ignore[method-assign]
    try:
        yield watch
    finally:
        asyncio.Handle._run = watch._run  # type: ignore[method-assign]
        gc.unfreeze()
