"""The rest of a text, taken from its engine while its reader is slow.

So an engine waits for no reader: its slot is free when it is done, and the text waits in memory.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from inference_service.engines.base import Chunk, Finish
from inference_service.errors import ServiceError
from inference_service.serving.measure import Check

# In characters, of one to four bytes.
MOST = 256 << 10  # of one text
ALL = 16 << 20  # of all texts
_BLOCK = 16 << 10  # of one message, which a slow reader has to read within its time


class Store:
    """The texts of all that are ahead."""

    def __init__(self) -> None:
        self.size = 0

    @property
    def full(self) -> bool:
        """Whether no more text can be ahead."""
        return self.size >= ALL


class Ahead:
    """The rest of a text, by what its engine makes; `blocks` are what its reader has yet to get.

    Each of the `chunks` passes `check`. They are closed at the end, and `ended` is called when the
    engine is done. `timed_out` makes the error for `silence` seconds without a chunk.
    """

    def __init__(
        self,
        store: Store,
        chunks: AsyncGenerator[Chunk],
        check: Check,
        ended: Callable[[], None],
        silence: float,
        timed_out: Callable[[], ServiceError],
    ) -> None:
        self.finish: Finish | None = None
        self._store = store
        self._chunks = chunks
        self._check = check
        self._notify_end = ended
        self._silence = silence
        self._timed_out = timed_out
        self._blocks: deque[Chunk] = deque()
        self._size = 0
        self._ended = False
        self._error: Exception | None = None
        self._change = asyncio.Event()
        self._task = asyncio.create_task(self._take())

    @property
    def waits(self) -> bool:
        """Whether the engine waits for the reader."""
        return not self._ended and self._full

    async def next(self) -> Chunk | None:
        """Return the next piece of the text, or None at its end. Raises what the engine raised."""
        while not self._blocks:
            if self._error is not None:
                raise self._error
            if self._ended:
                return None
            await self._changed()
        block = self._blocks.popleft()
        self._resize(-len(block.text))
        return block

    async def stop(self) -> None:
        """Stop, and drop what is left."""
        self._task.cancel()
        await asyncio.wait([self._task])
        await self._chunks.aclose()  # a task that is cancelled before its first step does nothing
        self._resize(-self._size)
        self._blocks.clear()

    @property
    def _full(self) -> bool:
        return self._size >= MOST or (self._store.full and self._size > 0)

    async def _take(self) -> None:
        limit = asyncio.timeout(None)
        try:
            async with limit, aclosing(self._chunks):
                limit.reschedule(_now() + self._silence)
                async for chunk in self._chunks:
                    self._check(chunk)
                    self._add(chunk)
                    limit.reschedule(None)
                    while self._full:
                        await self._changed()
                    limit.reschedule(_now() + self._silence)
        except TimeoutError as error:
            self._error = self._timed_out() if limit.expired() else error
        except Exception as error:
            self._error = error
        finally:
            self._ended = True
            self._notify_end()
            self._change.set()

    def _add(self, chunk: Chunk) -> None:
        self.finish = chunk.finish
        if not chunk.says_something:
            return
        if self._blocks and len(self._blocks[-1].text) < _BLOCK:
            last = self._blocks.pop()
            chunk = Chunk(last.text + chunk.text, last.token_count + chunk.token_count)
            self._resize(-len(last.text))
        self._blocks.append(chunk)
        self._resize(len(chunk.text))

    def _resize(self, by: int) -> None:
        self._size += by
        self._store.size += by
        self._change.set()

    async def _changed(self) -> None:
        self._change.clear()
        await self._change.wait()


def _now() -> float:
    return asyncio.get_running_loop().time()
