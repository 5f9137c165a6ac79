"""The methods of the service as gRPC serves them: each call ends with its answer or its status.

They are wrapped once, and not by an interceptor, which grpc.aio awaits anew for each call.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from inference_service.api.statuses import status_of
from inference_service.errors import InvalidRequest, ServiceError

log = logging.getLogger(__name__)

Handlers = dict[str, "grpc.RpcMethodHandler[Any, Any]"]  # by the name of the method


def handlers(add: Callable[..., None], servicer: object) -> Handlers:
    """What the generated `add_..._to_server` would give to a server.

    A server that is given it enters it twice, once in its table of registered methods; grpc.aio
    waits for the next call of each of those, so that every call would pay for all of them.
    """
    collector = _Collector()
    add(servicer, collector)
    return collector.handlers


class _Collector:
    """As much of a server as the generated code needs."""

    def __init__(self) -> None:
        self.handlers: Handlers = {}

    def add_generic_rpc_handlers(self, _: object) -> None:
        """They come by the other method, too."""

    def add_registered_method_handlers(self, _: str, handlers: Handlers) -> None:
        self.handlers |= handlers


def guarded(unguarded: Handlers) -> Handlers:
    """The same, but that each ends a call that raises with the status of what it raised."""
    return {method: _guarded(handler) for method, handler in unguarded.items()}


def _guarded(handler: Any) -> grpc.RpcMethodHandler[Any, Any]:
    make, handle = (
        (grpc.unary_stream_rpc_method_handler, _opened(handler.unary_stream))
        if handler.response_streaming
        else (grpc.unary_unary_rpc_method_handler, handler.unary_unary)
    )
    return make(
        _ending(handle),
        request_deserializer=_lenient(handler.request_deserializer),
        response_serializer=handler.response_serializer,
    )


def _lenient(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Bytes that are no message become an error that the wrapped handler raises."""

    def parse(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            return InvalidRequest("the request is not a message of this method; check the proto")

    return parse


def _opened(handle: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Send the headers of a stream before it is handled.

    gRPC else sends them with the first message, and never ends a call in which a time limit or a
    stop has cut off that write: its status would send them again, and the caller waits for ever.
    """

    async def opened(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        await context.send_initial_metadata(())
        return await handle(request, context)

    return opened


def _ending(handle: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def ending(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            if isinstance(request, ServiceError):
                raise request
            return await handle(request, context)
        except Exception as error:
            if isinstance(error, grpc.aio.InternalError):
                # Where the caller has gone while a message was on its way, gRPC cancels this now.
                await asyncio.sleep(1)
            await _abort(context, error)

    return ending


async def _abort(context: grpc.aio.ServicerContext[Any, Any], error: Exception) -> None:
    if not isinstance(error, ServiceError):
        log.exception("fault in a call", exc_info=error)
        error = ServiceError()
    await context.abort_with_status(rpc_status.to_status(status_of(error)))
