"""Errors of the service become gRPC statuses here, by the one table in errors.proto."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from inference_service.errors import InvalidParameter, ServiceError
from inference_service.v1 import errors_pb2

log = logging.getLogger(__name__)

DOMAIN = "inference-service"

# gRPC sends a status in trailers, which together may have 8 KiB; each text stands in two of them,
# once in base64.
_LONGEST_MESSAGE = 500
_LONGEST_LOG = 1500


def rule(reason: str) -> errors_pb2.ErrorRule:
    """How a reason is shown on the wire."""
    value = errors_pb2.ErrorReason.DESCRIPTOR.values_by_name[f"ERROR_REASON_{reason}"]
    found: errors_pb2.ErrorRule = value.GetOptions().Extensions[errors_pb2.error_rule]
    return found


def status_of(error: ServiceError) -> status_pb2.Status:
    """The status with its details: one ErrorInfo, and what else helps."""
    shown = rule(error.reason)
    sent = int(error.metadata.get("sent_token_count", 0))
    code = shown.code_after_first_token if sent and shown.code_after_first_token else shown.code
    message = _shortened(error.message, _LONGEST_MESSAGE)
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)
    ]
    if error.field is not None:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field, description=message
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.retry_after is not None:
        nanos = round(error.retry_after * 1e9)
        delay = duration_pb2.Duration(seconds=nanos // 10**9, nanos=nanos % 10**9)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if error.log:
        details.append(error_details_pb2.DebugInfo(stack_entries=_last(error.log)))
    status = status_pb2.Status(code=code, message=message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def _shortened(text: str, size: int) -> str:
    """The text, or so much of it that it has at most `size` bytes."""
    if len(data := text.encode()) <= size:
        return text
    return data[: size - 3].decode(errors="ignore") + "..."


def _last(log: tuple[str, ...]) -> list[str]:
    """The last lines that fit, oldest first; the very last one in any case."""
    lines: list[str] = []
    room = _LONGEST_LOG
    for line in reversed(log):
        line = _shortened(line, _LONGEST_LOG // 2)
        room -= len(line.encode())
        if room < 0:
            break
        lines.insert(0, line)
    return lines


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Ends each call that raises with the status of what it raised."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wrap the handler of our own service; health and reflection answer for themselves."""
        handler = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith("/inference_service."):
            return handler
        make, guarded = (
            (grpc.unary_stream_rpc_method_handler, _guarded(_opened(handler.unary_stream)))
            if handler.response_streaming
            else (grpc.unary_unary_rpc_method_handler, _guarded(handler.unary_unary))
        )
        return make(
            guarded,
            request_deserializer=_lenient(handler.request_deserializer),
            response_serializer=handler.response_serializer,
        )


def _lenient(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Bytes that are no message become an error that the wrapped handler raises."""

    def parse(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            return InvalidParameter("the request is not a message of this method; check the proto")

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


def _guarded(handle: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def guarded(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            if isinstance(request, ServiceError):
                raise request
            return await handle(request, context)
        except Exception as error:
            if isinstance(error, grpc.aio.InternalError):
                # Where the caller has gone while a message was on its way, gRPC cancels this now.
                await asyncio.sleep(1)
            await _abort(context, error)

    return guarded


async def _abort(context: grpc.aio.ServicerContext[Any, Any], error: Exception) -> None:
    if not isinstance(error, ServiceError):
        log.exception("fault in a call", exc_info=error)
        error = ServiceError("the service has a fault; its log has the details")
    await context.abort_with_status(rpc_status.to_status(status_of(error)))
