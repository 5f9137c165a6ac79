"""The gate that every call passes, on the wire or not: a call ends with its answer or its status.

Each method is wrapped once, and not by an interceptor, which grpc.aio awaits anew for each call.
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
    """Return the methods that the generated `add_..._to_server` would add to a server.

    A server enters such methods twice, once in its table of registered methods. grpc.aio waits for
    the next call of each of those, so that every call would pay for all of them.
    """
    collector = _Collector()
    add(servicer, collector)
    return collector.handlers


class _Collector:
    """The part of a server that the generated code needs."""

    def __init__(self) -> None:
        self.handlers: Handlers = {}

    def add_generic_rpc_handlers(self, _: object) -> None:
        """Ignore them: the other method adds the same."""

    def add_registered_method_handlers(self, _: str, handlers: Handlers) -> None:
        self.handlers |= handlers


def guarded(unguarded: Handlers) -> Handlers:
    """Return the same methods, which end a failed call with its status."""
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
    """Return a parser that makes an error of unreadable bytes, for `_ending` to raise."""

    def parse(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            return InvalidRequest("the request is not a message of this method; check the proto")

    return parse


def _opened(handle: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Return a handler that sends the headers of a stream first.

    Otherwise gRPC sends the headers with the first message. When a time limit or a stop cuts off
    that write, the status would send the headers again: gRPC refuses, and the caller waits for
    ever.
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
                # The caller has left while a message was on its way: gRPC cancels this task now.
                await asyncio.sleep(1)
            await _abort(context, error)

    return ending


async def _abort(context: grpc.aio.ServicerContext[Any, Any], error: Exception) -> None:
    if not isinstance(error, ServiceError):
        log.exception("fault in a call", exc_info=error)
        error = ServiceError()
    await context.abort_with_status(rpc_status.to_status(status_of(error)))
