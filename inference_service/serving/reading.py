"""The readers of streams, who have to read on.

One look a second at all streams that are open finds those whose write has not ended: a timer for
each write would cost as much as a token.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Protocol

from inference_service.errors import NotRead, ServiceError
from inference_service.serving.ahead import Ahead, Store

LOOK = 1.0  # seconds between two looks

# Seconds in all for which a stream may hold up others who wait. A client has 64 KiB and more of a
# text ahead of it, by HTTP/2 or in the kernel: a terminal that is stopped for a while holds nothing
# up, and who reads no status reads nothing.
PATIENCE = 10.0
SHORT_PATIENCE = 3.0  # of a status, or another small message
SOON = 1.0  # until the rest of a text is taken from its engine


class Wanted(Protocol):
    """What a stream holds."""

    @property
    def contended(self) -> bool:
        """Whether others wait for it."""


class _Free:
    contended = False


NOTHING: Wanted = _Free()


class Readers:
    """The readers of all streams; each may take `timeout` seconds for one message."""

    def __init__(self, timeout: float) -> None:
        self.now = 0.0  # the time of the last look
        self.store = Store()
        self._timeout = timeout
        self._readers: set[Reader] = set()
        self._timer: asyncio.TimerHandle | None = None

    def reading(self, held: Wanted | None = None, *, bounded: bool = False) -> Reading:
        """Return the reading of a new stream, which holds this.

        `bounded`: who writes has a limit of its own, and sees more than whole messages.
        """
        return Reading(self, held or NOTHING, math.inf if bounded else self._timeout)

    def add(self, reader: Reader) -> None:
        """Begin to look at a stream."""
        self._readers.add(reader)
        if self._timer is None:
            self._look()

    def remove(self, reader: Reader) -> None:
        """Look at a stream no more."""
        self._readers.discard(reader)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self.now = loop.time()
        for reader in [*self._readers]:
            reader.look()
        self._timer = loop.call_later(LOOK, self._look) if self._readers else None


class Reader:
    """One stream, as its reader reads it; a subclass stops it.

    A write notes its beginning in `began` (the `now` of `readers`), and its end adds the time to
    `waited`. While others wait for what the stream holds, `take` makes the rest of the text be
    `ahead`. The stream is stopped with NotRead where a write takes too long.
    """

    __slots__ = ("ahead", "began", "held", "patience", "readers", "take", "timeout", "waited")

    def __init__(self, readers: Readers, held: Wanted, timeout: float) -> None:
        self.readers = readers
        self.held = held
        self.timeout = timeout
        self.began: float | None = None
        self.waited = 0.0
        self.patience = PATIENCE
        self.take: Callable[[Store], Ahead] | None = None
        self.ahead: Ahead | None = None

    def written(self) -> None:
        """Note the end of a write, and the time that it has taken."""
        if self.began is not None:
            self.waited += self.readers.now - self.began
            self.began = None

    def look(self) -> None:
        """Stop the stream if a write has waited for too long."""
        if self.began is not None:
            self._judge(self.readers.now - self.began)

    def stop(self, error: ServiceError) -> None:
        """End the stream with an error."""
        raise NotImplementedError

    def _judge(self, blocked: float) -> None:
        waited = self.waited + blocked
        store = self.readers.store
        if blocked >= self.timeout:
            self.stop(NotRead(blocked, others=False))
        elif waited < SOON or not self.held.contended:
            return
        elif self.ahead is None and self.take is not None and not store.full:
            self.ahead = self.take(store)
        elif waited >= self.patience and (self.ahead is None or self.ahead.waits):
            self.stop(NotRead(waited, others=True))


class Reading(Reader):
    """The block in which all of a stream is written, where a task does that.

    Where there is a write for each token, the writer notes it itself. `sent_token_count` goes with
    the error.
    """

    __slots__ = ("_error", "_task", "_whole", "sent_token_count")

    def __init__(self, readers: Readers, held: Wanted, timeout: float) -> None:
        super().__init__(readers, held, timeout)
        self._whole = held
        self.sent_token_count = 0
        self._error: ServiceError | None = None
        self._task: asyncio.Task[object] | None = None

    def __enter__(self) -> Reading:
        self._task = asyncio.current_task()
        self.readers.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        self.readers.remove(self)
        if self._error is not None:
            assert self._task is not None
            left = self._task.uncancel()
            # Else the caller has left too, or the stream had another end at the same moment.
            if kind is asyncio.CancelledError and not left:
                if self.sent_token_count:
                    self._error.metadata["sent_token_count"] = str(self.sent_token_count)
                raise self._error from None

    async def write(self, write: Callable[[Any], Awaitable[None]], message: Any) -> None:
        """Write a small message, and note the time that it takes."""
        self.began = self.readers.now
        self.patience = SHORT_PATIENCE
        await write(message)
        self.patience = PATIENCE
        self.written()

    def hold(self) -> None:
        """Hold what the stream is for."""
        self.held = self._whole

    def let_go(self) -> None:
        """Hold nothing any more for which others could wait."""
        self.held = NOTHING

    def stop(self, error: ServiceError) -> None:
        """End the block, in the write that it waits for."""
        if self._error is None and self._task is not None:
            self._error = error
            self._task.cancel()


FREE = Readers(math.inf).reading()  # without a limit
