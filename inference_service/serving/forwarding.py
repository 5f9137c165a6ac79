"""One request that is passed on as it is, from the call to the end of its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from inference_service.engines.answer import Answer
from inference_service.engines.exchange import Head, Request, Source
from inference_service.serving.attempts import Attempts
from inference_service.serving.changes import Notify
from inference_service.serving.reading import Reading

WriteHead = Callable[[Head], Awaitable[None]]
WriteData = Callable[[bytes], Awaitable[None]]


async def forward(
    attempts: Attempts,
    request: Request,
    reading: Reading,
    write_head: WriteHead,
    write: WriteData,
    notify: Notify | None = None,
) -> None:
    """Ask an engine, and write its answer as it comes.

    `notify` is that of a lease, and is not called after the head. Raises what `Attempts.ask` does.
    """
    answer = _Answer()
    asking = asyncio.create_task(attempts.ask(request, answer, notify))
    asking.add_done_callback(answer.asked)
    try:
        await reading.write(write_head, await answer.headed())
        async for data in answer:
            reading.began = reading.readers.now
            await write(data)
            reading.written()
        await asking
    finally:
        answer.close()
        asking.cancel()
        await asyncio.wait([asking])


class _Answer(Answer):
    """An answer that also ends where its request does, as after a stop of the model."""

    _head: Head | None = None

    def head(self, head: Head, source: Source) -> None:
        super().head(head, source)
        self._head = head
        self._wake()

    def asked(self, asking: asyncio.Task[None]) -> None:
        """End, if the request was ended without an end of the answer."""
        if not self._ended and not asking.cancelled():
            error = asking.exception()
            assert isinstance(error, Exception), "a request without an end has an error"
            self.end(error)

    async def headed(self) -> Head:
        """Return the head when it has come. Raises the error of the request."""
        while self._head is None:
            if self._error is not None:
                raise self._error
            await self._changed()
        return self._head

    def close(self) -> None:
        if self._head is not None:
            super().close()
