"""The service in this process: its handlers are called, and no wire is between.

Handlers run in the task of the HTTP request. Messages are passed by reference, and neither side
changes a message that was passed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, NoReturn, Protocol

import grpc

from rest_bridge.errors import BridgeError, from_status
from rest_bridge.service import (
    Accepted,
    Answer,
    Forwarded,
    Forwarding,
    Metadata,
    Method,
    Question,
    Sink,
    Write,
)

Handle = Callable[[Any, Any], Awaitable[Any]]
Trailers = Iterable[tuple[str, str | bytes]]


class Forwarder(Protocol):
    """What passes requests on in this process."""

    def begin(self, request: Any, context: Any, sink: Any) -> Forwarding:
        """Pass a request on; the sink gets an end, be it an error of the service."""

    def status(self, error: Exception) -> grpc.Status:
        """Return the status of such an error."""


class LocalService:
    """The service whose methods are handled by `handlers`, by path.

    A handler takes a request and a context, and returns the answer or writes a stream. `forwarder`
    passes requests on.
    """

    def __init__(self, handlers: Mapping[str, Handle], forwarder: Forwarder, target: str) -> None:
        self.target = target
        self._handlers = handlers
        self._forwarder = forwarder

    async def answer(
        self, method: Method[Question, Answer], request: Question, metadata: Metadata
    ) -> Answer:
        context = _Context(metadata, self.target, _accept_nothing, _write_no_answer)
        answer: Answer = await _handled(self._handlers[method.path], request, context)
        return answer

    async def stream(
        self,
        method: Method[Question, Any],
        request: Question,
        metadata: Metadata,
        accepted: Accepted,
        write: Write,
    ) -> None:
        context = _Context(metadata, self.target, accepted, write)
        await _handled(self._handlers[method.path], request, context)

    def forward(self, request: Forwarded, metadata: Metadata, sink: Sink) -> Forwarding:
        context = _Context(metadata, self.target, _accept_nothing, _write_no_answer)
        return self._forwarder.begin(request, context, _Ended(sink, self._forwarder, self.target))


class _Ended:
    """A sink that gets errors of the service, for one that gets those of the bridge."""

    __slots__ = ("_forwarder", "_sink", "_target", "data", "head", "waits")

    def __init__(self, sink: Sink, forwarder: Forwarder, target: str) -> None:
        self.data, self.head, self.waits = sink.data, sink.head, sink.waits
        self._sink = sink
        self._forwarder = forwarder
        self._target = target

    def end(self, error: Exception | None) -> None:
        if error is not None:
            status = self._forwarder.status(error)
            trailers = status.trailing_metadata or ()
            error = from_status(status.code, status.details, trailers, self._target)
        self._sink.end(error)


async def _handled(handle: Handle, request: Any, context: "_Context") -> Any:
    try:
        if context.deadline is None:
            return await handle(request, context)
        async with asyncio.timeout_at(context.deadline):
            return await handle(request, context)
    except grpc.aio.AbortError:
        raise context.taken_error() from None
    except TimeoutError:
        raise from_status(
            grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", (), context.target
        ) from None


class _Context:
    """The part of `grpc.aio.ServicerContext` that handlers use."""

    bounded = True  # the HTTP server ends who takes no byte of an answer
    has_wire = False

    __slots__ = ("__weakref__", "_accepted", "_error", "_metadata", "deadline", "target", "write")

    def __init__(self, metadata: Metadata, target: str, accepted: Accepted, write: Write) -> None:
        self.write = write
        self._error: BridgeError | None = None  # once the call was aborted
        self.deadline: float | None = None  # on the clock of the loop
        self._accepted = accepted
        self._metadata = metadata
        self.target = target
        if metadata.timeout is not None:
            self.deadline = asyncio.get_running_loop().time() + metadata.timeout

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._metadata.entries

    def peer(self) -> str:
        return "in-process"

    def time_remaining(self) -> float | None:
        if self.deadline is None:
            return None
        return max(0.0, self.deadline - asyncio.get_running_loop().time())

    async def send_initial_metadata(self, _: object) -> None:
        await self._accepted()

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Trailers = ()
    ) -> NoReturn:
        self._error = from_status(code, details, trailing_metadata, self.target)
        raise grpc.aio.AbortError

    def taken_error(self) -> BridgeError:
        """Return the error of the abort, without a reference that would make a cycle."""
        error, self._error = self._error, None
        assert error is not None, "an abort has an error"
        return error

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        await self.abort(status.code, status.details, status.trailing_metadata or ())


async def _accept_nothing() -> None:
    """Accept a call that has one answer, which nothing comes before."""


async def _write_no_answer(_: object) -> NoReturn:
    raise grpc.aio.UsageError("a call that has one answer is not written to")
