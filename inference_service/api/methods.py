"""The gate that every call passes, on the wire or not: a call ends with its answer or its status.

Each method is wrapped once, and not by an interceptor, which grpc.aio awaits anew for each call.
A call of a method that does not exist passes the gate of `unknown`.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from functools import partial
from typing import Any, Protocol

import grpc
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from inference_service import malformed
from inference_service.api import fields
from inference_service.api.statuses import pushback, status_of
from inference_service.errors import (
    InvalidParameter,
    InvalidRequest,
    RequestTooLarge,
    ServiceError,
)

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
Handle = Callable[[Any, Any], Awaitable[Any]]  # a stream is written to the context
Handlers = dict[str, "grpc.RpcMethodHandler[Any, Any]"]  # by the name of the method

# Headers commit a call: no client's retry policy works after them. So they are sent once the call
# is accepted, and not before: see `Writer`. The entry tells them from the empty ones that a client
# is given for a call without headers.
_ACCEPTED = (("x-accepted", "true"),)

_LARGE = 64 * 1024  # bytes of a message that are parsed in 2 ms, whatever they are
_MOST_FIELDS = 1000
# The methods whose messages may be larger, up to the limit of the server. A stream keeps its
# message until its end.
_LARGE_REQUESTS = {"Generate": 4 << 20, "GenerateStream": 4 << 20, "Forward": 1 << 30}


class Door(Protocol):
    """What counts the calls of the wire, and may end them."""

    def enter(self, context: Context) -> None:
        """Count a call of this task until its end. Raises ServiceError to refuse it."""

    def leave(self) -> ServiceError | None:
        """Return why the door has cancelled this task, if it has; it does so no more."""


async def gate(
    path: str,
    handle: Handle,
    request: Any,
    context: Context,
    door: Door | None = None,
) -> Any:
    """Pass a call of the method at `path` to its handler, and end a failed call with its status.

    `request` is a message, the iterator of a stream's messages, or bytes; the handler returns such
    an answer, or writes a stream of them. The `door` comes first, and may refuse the call.
    """
    try:
        if door is not None:
            door.enter(context)
        if isinstance(request, ServiceError):
            raise request
        return await handle(request, context)
    except grpc.aio.AbortError:  # the handler of a library has ended the call
        raise
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if door is not None and (why := door.leave()) is not None:
            await _end(path, context, why)
        if task is None or task.cancelling():  # by a caller that has left, or by a deadline
            raise
        await _end(path, context, error)  # else gRPC would leave the caller waiting (grpc#29248)
    except Exception as error:
        if isinstance(error, grpc.aio.InternalError):
            # The caller has left while a message was on its way: gRPC cancels this task now.
            await asyncio.sleep(1)
        await _end(path, context, error)
    finally:
        if door is not None:
            door.leave()


async def _end(path: str, context: Context, error: BaseException) -> None:
    if not isinstance(error, ServiceError):
        log.exception("fault in a call of %s", path, exc_info=error)
        error = ServiceError()
    status = rpc_status.to_status(status_of(error))
    retry = pushback(error, context.time_remaining())
    with suppress(grpc.aio.InternalError):  # the caller has left meanwhile, or the server ends
        await context.abort(status.code, status.details, (*status.trailing_metadata, *retry))


async def accept(context: Context) -> None:
    """Send the headers of a stream, which may wait from now on.

    A stream has to be accepted before its first message. Otherwise gRPC sends the headers with that
    message, and when a time limit or a stop cuts off that write, the status would send the headers
    again: gRPC refuses, and the caller waits for ever. For the same reason a cut waits until the
    headers are sent.
    """
    if not getattr(context, "has_wire", True):
        await context.send_initial_metadata(_ACCEPTED)
        return
    sending = asyncio.ensure_future(context.send_initial_metadata(_ACCEPTED))
    # Headers for a caller that has left fail, and after a cut nobody else takes that error.
    sending.add_done_callback(lambda sent: sent.cancelled() or sent.exception())
    try:
        await asyncio.shield(sending)
    except asyncio.CancelledError:
        await asyncio.wait([sending])
        raise


def gated(service: str, add: Callable[..., None], servicer: object) -> Handlers:
    """Return the methods that the generated `add_..._to_server` would add to a server, gated.

    A server enters such methods twice, once in its table of registered methods. grpc.aio waits for
    the next call of each of those, so that every call would pay for all of them.
    """
    collector = _Collector()
    add(servicer, collector)
    return {
        name: _gated(f"/{service}/{name}", handler) for name, handler in collector.handlers.items()
    }


def by_path(services: Mapping[str, Handlers]) -> dict[str, Handle]:
    """Return the handlers of calls without a wire, by the path of the method."""
    return {
        f"/{service}/{name}": behaviour(handler)[1]
        for service, handlers in services.items()
        for name, handler in handlers.items()
    }


class _Collector:
    """The part of a server that the generated code needs."""

    def __init__(self) -> None:
        self.handlers: Handlers = {}

    def add_generic_rpc_handlers(self, _: object) -> None:
        """Ignore them: the other method adds the same."""

    def add_registered_method_handlers(self, _: str, handlers: Handlers) -> None:
        self.handlers |= handlers


def _gated(path: str, handler: Any) -> grpc.RpcMethodHandler[Any, Any]:
    kind, handle = behaviour(handler)
    if inspect.isasyncgenfunction(handle):
        handle = partial(_write_all, handle)
    if handler.request_streaming:
        handle = partial(_read_checked, handle)
    make = getattr(grpc, f"{kind}_rpc_method_handler")
    wrapped: grpc.RpcMethodHandler[Any, Any] = make(
        partial(gate, path, handle),
        request_deserializer=_lenient(path, handler.request_deserializer),
        response_serializer=handler.response_serializer,
    )
    return wrapped


def behaviour(handler: Any) -> tuple[str, Handle]:
    """Return the kind of a method, such as "unary_stream", and its handler."""
    kinds = {True: "stream", False: "unary"}
    kind = f"{kinds[handler.request_streaming]}_{kinds[handler.response_streaming]}"
    return kind, getattr(handler, kind)


async def _write_all(
    handle: Callable[..., AsyncGenerator[Any]], request: Any, context: Any
) -> None:
    """Write the messages that the handler of a library yields."""
    async with aclosing(handle(request, context)) as messages:
        async for message in messages:
            await context.write(message)


async def _read_checked(handle: Handle, requests: AsyncIterable[Any], context: Context) -> Any:
    """Handle a stream of messages, the unreadable ones of which raise."""

    async def checked() -> AsyncGenerator[Any]:
        async for request in requests:
            if isinstance(request, ServiceError):
                raise request
            yield request

    return await handle(checked(), context)


def _lenient(
    path: str, deserialize: Callable[[bytes], Any] | None
) -> Callable[[bytes], Any] | None:
    """Return a parser that makes an error of unreadable bytes, for the gate to raise."""
    if deserialize is None:  # of bytes
        return None
    most = _LARGE_REQUESTS.get(path.rpartition("/")[2], _LARGE)

    def parse(data: bytes) -> Any:
        if len(data) > most:
            return RequestTooLarge(f"a request of this method has {most >> 10} KiB at most")
        if len(data) > _LARGE and fields.has_more(data, _MOST_FIELDS):
            return InvalidRequest(
                f"a request of more than 64 KiB may have {_MOST_FIELDS} fields, and each item of a "
                "list is one; at most 4 `stop` sequences are taken"
            )
        try:
            return deserialize(data)
        except DecodeError:
            return _unreadable(data, deserialize)

    return parse


def _unreadable(data: bytes, deserialize: Any) -> ServiceError:
    """Return the error of bytes that a message's own `FromString` does not take."""
    message = getattr(getattr(deserialize, "__self__", None), "DESCRIPTOR", None)
    if message is not None and (field := fields.malformed_text(data, message)) is not None:
        return InvalidParameter({field: malformed.SENTENCE})
    return InvalidRequest("the request is not a message of this method; check the proto")
