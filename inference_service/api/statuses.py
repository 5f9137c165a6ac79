"""From the errors of the service to gRPC statuses, by the one table in errors.proto."""

from __future__ import annotations

import math
from collections.abc import Mapping

from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from inference_service.errors import ServiceError
from inference_service.v1 import errors_pb2

DOMAIN = "inference-service"

_PUSHBACK = "grpc-retry-pushback-ms"

# gRPC sends a status in trailers, which together may have 8 KiB. Each text is in two of them, once
# in base64.
_LONGEST_MESSAGE = 500
_LONGEST_VIOLATION = 300
_LONGEST_VIOLATIONS = 2000
_LONGEST_LOG = 1500


def rule(reason: str) -> errors_pb2.ErrorRule:
    """Return the rule of a reason: its codes, and its advice."""
    value = errors_pb2.ErrorReason.DESCRIPTOR.values_by_name[f"ERROR_REASON_{reason}"]
    found: errors_pb2.ErrorRule = value.GetOptions().Extensions[errors_pb2.error_rule]
    return found


def retry_helps(error: ServiceError) -> bool:
    """Return whether the same call can succeed later, without a change by anybody."""
    helps: bool = rule(error.reason).retry_helps
    return helps


def pushback(error: ServiceError, left: float | None) -> tuple[tuple[str, str], ...]:
    """Return the trailing metadata by which a client's retry policy knows when to retry, if at all.

    `left` are the seconds until the deadline of the call, which is that of all its attempts.
    """
    wait = error.retry_after
    # After the deadline nobody would see the error.
    if not retry_helps(error) or (left is not None and (wait or 0) >= left):
        return ((_PUSHBACK, "-1"),)
    # Without a time, the client has its own. With 0, that of grpcio 1.85 never makes the attempt.
    return () if wait is None else ((_PUSHBACK, str(max(1, math.ceil(wait * 1000)))),)


def status_of(error: ServiceError) -> status_pb2.Status:
    """Return the status with its details: one ErrorInfo, and what else helps."""
    shown = rule(error.reason)
    sent = "sent_token_count" in error.metadata
    code = shown.code_after_first_token if sent and shown.code_after_first_token else shown.code
    message = message_of(error)
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)
    ]
    if error.violations:
        details.append(_bad_request(error.violations))
    if error.retry_after is not None:
        nanos = round(error.retry_after * 1e9)
        delay = duration_pb2.Duration(seconds=nanos // 10**9, nanos=nanos % 10**9)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if error.log:
        details.append(error_details_pb2.DebugInfo(stack_entries=log_of(error)))
    status = status_pb2.Status(code=code, message=message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def message_of(error: ServiceError) -> str:
    """Return the message, as far as it has room in a status."""
    return _shortened(error.message, _LONGEST_MESSAGE)


def _bad_request(violations: Mapping[str, str]) -> error_details_pb2.BadRequest:
    """Return the first violations that fit, one for each field."""
    bad = error_details_pb2.BadRequest()
    room = _LONGEST_VIOLATIONS
    for field, sentence in violations.items():
        description = _shortened(sentence, _LONGEST_VIOLATION)
        room -= len(field.encode()) + len(description.encode())
        if room < 0:
            break
        bad.field_violations.add(field=field, description=description)
    return bad


def log_of(error: ServiceError) -> list[str]:
    """Return the last lines that have room, oldest first; the very last one in any case."""
    lines: list[str] = []
    room = _LONGEST_LOG
    for line in reversed(error.log):
        line = _shortened(line, _LONGEST_LOG // 2)
        room -= len(line.encode())
        if room < 0:
            break
        lines.insert(0, line)
    return lines


def _shortened(text: str, size: int) -> str:
    """Return the text, cut to at most `size` bytes."""
    if len(data := text.encode()) <= size:
        return text
    return data[: size - 3].decode(errors="ignore") + "..."
