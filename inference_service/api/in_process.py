"""A channel without a wire, for callers in the same process.

gRPC has such a channel for other languages ("in-process transport"), and none for Python. To a stub
it is a channel of grpc.aio, and to the handlers a server. Messages are passed by reference, and
neither side changes a message that was passed.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from functools import partial
from typing import Any, NoReturn

import grpc

from inference_service.api.methods import Handlers

log = logging.getLogger(__name__)

Metadata = Iterable[tuple[str, str | bytes]]


class Channel:
    """A channel to the handlers of `services`, which are by full name.

    Each call has a task of its own, which is cancelled when its caller leaves. A handler of a
    stream writes; it does not yield.
    """

    def __init__(self, services: Mapping[str, Handlers]) -> None:
        self._services = services
        self._running: set[_Context] = set()  # asyncio itself keeps no reference to a task

    async def close(self) -> None:
        """Cancel the calls that run, and return when their handlers have ended."""
        tasks = [context.task for context in self._running if context.task]
        for context in self._running:
            context.leave()
        await asyncio.gather(*tasks, return_exceptions=True)

    # The further arguments say how to serialize, which is not needed here.

    def unary_unary(self, method: str, *_: object, **__: object) -> Callable[..., Call]:
        """Return a caller of a method with one answer; `method` is its path, `/service/name`."""
        return partial(self._call, self._handler(method, "unary_unary"))

    def unary_stream(self, method: str, *_: object, **__: object) -> Callable[..., Call]:
        """Return a caller of a method that answers with a stream."""
        return partial(self._call, self._handler(method, "unary_stream"))

    def _handler(self, method: str, kind: str) -> Callable[..., Any]:
        _, service, name = method.split("/")
        return getattr(self._services.get(service, {}).get(name), kind, None) or _unimplemented

    def _call(
        self,
        handle: Callable[..., Any],
        request: object,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
    ) -> Call:
        context = _Context(self._running, metadata or (), timeout)
        context.task = asyncio.create_task(handle(request, context))
        context.task.add_done_callback(context.handled)
        self._running.add(context)
        return Call(context)


async def _unimplemented(_: object, context: _Context) -> None:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


class Call:
    """One call: awaited it gives the answer, iterated the messages of a stream.

    Either raises AioRpcError, or CancelledError where the caller itself has cancelled the call. A
    call without any reference is cancelled.
    """

    def __init__(self, context: _Context) -> None:
        self._context = context

    def __del__(self) -> None:
        self.cancel()

    def cancel(self) -> None:
        """End the call, if it has not ended."""
        self._context.leave()

    def __await__(self) -> Generator[Any, None, Any]:
        yield from self._context.arrival().__await__()
        return self._context.answer

    def __aiter__(self) -> Call:
        return self

    async def __anext__(self) -> Any:
        context = self._context
        if not context.messages:
            await context.arrival()
            if not context.messages:
                raise StopAsyncIteration
        _wake(context.taken)
        return context.messages.popleft()


class _Context:
    """The state of one call: what handlers use of `grpc.aio.ServicerContext`, and the caller's
    side.

    `messages` are those that the caller has not taken yet: one, and one with which a `write` waits.
    """

    def __init__(self, running: set[_Context], metadata: Metadata, timeout: float | None) -> None:
        self.task: asyncio.Task[Any] | None = None
        self.answer: object = None
        self.messages: deque[object] = deque()
        self.taken: asyncio.Future[None] | None = None  # what the handler waits for
        self._arrived: asyncio.Future[None] | None = None  # what the caller waits for
        self._running = running
        self._metadata = metadata
        self._left = False
        self._status: tuple[grpc.StatusCode, str, Metadata] | None = None  # once it has ended
        self._loop = asyncio.get_running_loop()
        self._expiry: asyncio.TimerHandle | None = None
        if timeout is not None:
            expired = grpc.StatusCode.DEADLINE_EXCEEDED
            self._expiry = self._loop.call_later(timeout, self._cut, expired, "Deadline Exceeded")

    def invocation_metadata(self) -> Metadata:
        return self._metadata

    def peer(self) -> str:
        return "in-process"

    def time_remaining(self) -> float | None:
        expiry = self._expiry
        return None if expiry is None else max(0.0, expiry.when() - self._loop.time())

    async def send_initial_metadata(self, _: Metadata) -> None:
        """Do nothing: no caller in this process reads it."""

    async def write(self, message: object) -> None:
        """Send a message, and return when the one before was taken.

        So a slow reader slows the engine down. A message whose `write` is cancelled is not sent.
        """
        if self._status is not None:
            raise grpc.aio.UsageError("the call has ended")
        self.messages.append(message)
        _wake(self._arrived)
        if len(self.messages) > 1:
            self.taken = self._loop.create_future()
            try:
                await self.taken
            except asyncio.CancelledError:
                if self.messages:
                    self.messages.pop()
                raise

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()
    ) -> NoReturn:
        self._end(code, details, trailing_metadata)
        raise grpc.aio.AbortError

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        await self.abort(status.code, status.details, status.trailing_metadata or ())

    def handled(self, task: asyncio.Task[Any]) -> None:
        """End the call in the way in which its handler has ended."""
        self._running.remove(self)
        self.task = None  # the traceback of what it raised leads back to this
        if task.cancelled():
            self._end(grpc.StatusCode.CANCELLED)
        elif not (error := task.exception()):
            self.answer = task.result()
            self._end(grpc.StatusCode.OK)
        elif not isinstance(error, grpc.aio.AbortError):
            log.error("fault in a call", exc_info=error)
            self._end(grpc.StatusCode.UNKNOWN, f"Unexpected {type(error)}: {error}")

    async def arrival(self) -> None:
        """Return when there is a message, or the call has ended well. Raises any other end."""
        if self._status is None and not self.messages:
            self._arrived = self._arrived or self._loop.create_future()
            try:
                await self._arrived
            except asyncio.CancelledError:
                self.leave()
                raise
            self._arrived = None
        if self._left:
            raise asyncio.CancelledError
        code, details, trailing = self._status or (grpc.StatusCode.OK, "", ())
        if code is not grpc.StatusCode.OK and not self.messages:
            trailers = grpc.aio.Metadata(*trailing)
            raise grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailers, details)

    def leave(self) -> None:
        """Note that the caller has left, and cancel the call if it runs."""
        if self._status is None or self.messages:
            self._left = True
            self._cut(grpc.StatusCode.CANCELLED)

    def _cut(self, code: grpc.StatusCode, details: str = "") -> None:
        self.messages.clear()
        self._end(code, details)
        if self.task is not None:
            self.task.cancel()

    def _end(self, code: grpc.StatusCode, details: str = "", trailing: Metadata = ()) -> None:
        if self._status is None:
            self._status = (code, details, trailing)
            if self._expiry is not None:
                self._expiry.cancel()
            _wake(self._arrived)


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
