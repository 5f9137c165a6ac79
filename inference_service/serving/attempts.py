"""The attempts at one request, whether for a text or for an answer in bytes.

An engine that is lost before the caller has seen a byte is replaced once, unnoticed. What becomes
of a request after its first byte is the affair of the caller of this module.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from inference_service.engines.exchange import Head, Request, Sink, Source
from inference_service.errors import (
    EngineDied,
    EngineLost,
    GenerationTimeout,
    ServiceError,
    SilenceTimeout,
)
from inference_service.runtimes.base import Instance
from inference_service.serving.changes import Notify
from inference_service.serving.leases import Lease
from inference_service.serving.model import Model
from inference_service.serving.queue import Caller
from inference_service.serving.reading import FREE, Reader
from inference_service.serving.silence import SilenceLimit

Late = Callable[[str, float], GenerationTimeout]  # of a model, after so many seconds
Work = Callable[[Lease, SilenceLimit], Awaitable[None]]


class Lost(NamedTuple):
    """An attempt whose engine was lost before the caller has seen a byte."""

    error: ServiceError
    instance: Instance


class Attempts:
    """The attempts at one request of a model, each with a lease and a limit on silence.

    `timeout` is in seconds: until the end of the work, or its next reset of the limit.
    `idle_timeout`, `caller`, `deadline` and `prompt` are those of `Model.lease`. The work notes in
    `seen` that the caller has seen a byte, after which the request cannot start anew. `late` is the
    error of the limit.
    """

    def __init__(
        self,
        model: Model,
        timeout: float,
        idle_timeout: float | None = None,
        caller: Caller = (),
        deadline: float = math.inf,
        prompt: str = "",
    ) -> None:
        self.seen = False
        self.late: Late = SilenceTimeout
        self._model = model
        self._timeout = timeout
        self._idle_timeout = idle_timeout
        self._caller = caller
        self._deadline = deadline
        self._prompt = prompt
        self._patience = model.entry.runtime.patience
        self._instance: Instance | None = None  # the last one

    async def ask(
        self,
        request: Request,
        sink: Sink,
        notify: Notify | None = None,
        reading: Reader = FREE,
        lost: Lost | None = None,
    ) -> None:
        """Pass a request on as it is; see `Engine.ask`.

        A silence counts from the lease or the last read, and not while the sink holds its source
        back: then `reading` waits for its reader. With `lost`, the request has had one attempt
        already. Raises what `run` raises. After an error that is not the engine's, such as a
        timeout or a stop of the model, the sink gets no end.
        """

        async def work(lease: Lease, limit: SilenceLimit) -> None:
            if request.options:
                await lease.checks.body(request, lease.entry)
            watched = _Watched(self, limit, sink, reading)
            await lease.entry.engine.ask(lease.instance, request, watched)

        if lost is None:
            await self.run(work, notify)
        else:
            self._instance = lost.instance
            await self.recovery(lost.error)
            await self.once(work, notify)

    async def run(self, work: Work, notify: Notify | None = None) -> None:
        """Do the work, and once more if its engine is lost before the caller has seen a byte.

        `notify` is that of a lease. Raises what the work raises, what a lease raises, and
        GenerationTimeout.
        """
        try:
            await self.once(work, notify)
        except (EngineDied, EngineLost) as lost:
            if self.seen:
                raise
            await self.recovery(lost)
            await self.once(work, notify)

    async def once(self, work: Work, notify: Notify | None = None) -> None:
        """Do the work in one attempt. See `run`."""
        leasing = self._model.lease(
            self._idle_timeout, self._caller, self._deadline, notify, self._prompt
        )
        limit = SilenceLimit(self._timeout)
        try:
            async with leasing as lease, limit:
                self._patience = lease.entry.runtime.patience
                self._instance = lease.instance
                await work(lease, limit)
        except TimeoutError:
            if not limit.expired():
                raise
            raise self.late(self._model.id, self._timeout) from None

    def release(self, lease: Lease) -> None:
        """Give a lease back before the end of its block, when its engine is done."""
        self._model.release(lease, self._idle_timeout)

    async def recovery(self, lost: ServiceError, seconds: float | None = None) -> None:
        """Return when another attempt makes sense.

        Raises `lost` where the runtime has not noticed the end of the engine within its patience,
        or within `seconds`, or the back-off of the model is longer.
        """
        try:
            async with asyncio.timeout(self._patience if seconds is None else seconds):
                await self._model.recovered(self._instance)
        except TimeoutError:
            raise lost from None


class _Watched:
    """A sink, and its source, whose calls the limit on silence follows."""

    _source: Source

    def __init__(
        self, attempts: Attempts, limit: SilenceLimit, sink: Sink, reading: Reader
    ) -> None:
        self._attempts = attempts
        self._limit = limit
        self._sink = sink
        self._reading = reading
        self._held = False

    def head(self, head: Head, source: Source) -> None:
        self._attempts.seen = True
        self._source = source
        self._limit.reset()
        self._sink.head(head, self)

    def data(self, data: bytes) -> None:
        if not self._held:
            self._limit.reset()
        self._sink.data(data)

    def end(self, error: Exception | None) -> None:
        self._sink.end(error)

    def pause(self) -> None:
        self._held = True
        self._reading.began = self._reading.readers.now
        self._limit.pause()
        self._source.pause()

    def resume(self) -> None:
        self._held = False
        self._reading.written()
        self._limit.reset()
        self._source.resume()

    def close(self) -> None:
        self._source.close()
