"""Errors of the bridge and of the service, and how REST shows them.

The answer is `{"detail": "<one sentence>"}`. The header `X-Error-Reason` has the reason, and
`Retry-After` the seconds after which a retry can succeed, where they are known. SDKs repeat a 503
by themselves: where no retry mends it, `X-Should-Retry: false` keeps those of OpenAI and Anthropic
from that. Reasons and HTTP statuses are those of the `error_rule` options of the enum
`ErrorReason`.
"""

import math
from collections.abc import Iterable
from typing import TypeVar

import grpc
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from inference_service.printable import printable
from inference_service.v1.error_code_pb2 import ErrorCode
from inference_service.v1.errors_pb2 import ErrorReason, ErrorRule, error_rule

Detail = TypeVar("Detail", BadRequest, ErrorInfo, RetryInfo)

# In the details of gRPC's own errors: for a message, and for metadata.
TOO_MANY = "pending requests"  # more calls at once than gRPC hands on to the service
TOO_LARGE = ("larger than max", "metadata size exceeds")
STATUS_DETAILS = "grpc-status-details-bin"

_LONGEST = 4000  # characters of a detail; a client can send megabytes, and each has to be looked at


class BridgeError(Exception):
    """An error to show to the client.

    `http_status` defaults to that of the reason's rule; the few errors that only HTTP has, such as
    405, give their own. `headers` go with the response; `field` is the request field at fault.
    """

    def __init__(
        self,
        reason: str,
        detail: str,
        *,
        http_status: int | None = None,
        headers: dict[str, str] | None = None,
        field: str | None = None,
    ) -> None:
        self.detail = printable(detail[:_LONGEST])
        super().__init__(self.detail)
        self.reason = reason
        self.http_status = rule(reason).http_status if http_status is None else http_status
        self.headers = {"X-Error-Reason": reason} | (headers or {})
        if self.http_status == 503 and _lasts(reason):
            self.headers["X-Should-Retry"] = "false"
        self.field = field


def rule(reason: str) -> ErrorRule:
    """Look up the rule of a reason in the contract. Raises KeyError for an unknown reason."""
    value = ErrorReason.DESCRIPTOR.values_by_name[f"ERROR_REASON_{reason}"]
    return value.GetOptions().Extensions[error_rule]


def _lasts(reason: str) -> bool:
    try:
        return bool(rule(reason).code == ErrorCode.ERROR_CODE_FAILED_PRECONDITION)
    except KeyError:  # a reason that only a newer service has
        return False


def from_status(
    code: grpc.StatusCode, details: str, trailers: Iterable[tuple[str, str | bytes]], target: str
) -> BridgeError:
    """Convert the status with which a call of the service at `target` has failed."""
    status = Status()
    for key, value in trailers:
        if key == STATUS_DETAILS and isinstance(value, bytes):
            status.ParseFromString(value)
    info = unpacked(status, ErrorInfo())
    if info is None:
        return without_reason(code, details, target)
    retry = unpacked(status, RetryInfo())
    headers = {}
    if retry is not None:
        seconds = math.ceil(retry.retry_delay.ToTimedelta().total_seconds())
        headers["Retry-After"] = str(seconds)
    try:
        http_status = rule(info.reason).http_status
    except KeyError:  # a reason that only a newer service has
        http_status = without_reason(code, details, target).http_status
    wrong = unpacked(status, BadRequest())
    field = wrong.field_violations[0].field if wrong and wrong.field_violations else None
    return BridgeError(
        info.reason, status.message, http_status=http_status, headers=headers, field=field
    )


def unpacked(status: Status, detail: Detail) -> Detail | None:
    """Unpack the status's detail of this type into `detail`; None when there is none."""
    return detail if any(packed.Unpack(detail) for packed in status.details) else None


def without_reason(code: grpc.StatusCode, details: str, target: str) -> BridgeError:
    """Convert an error that gRPC raised, not the service."""
    match code:
        case grpc.StatusCode.UNAVAILABLE:
            detail = (
                f"the service at {target} does not answer; start it, or give the bridge its "
                "address with --target"
            )
            return BridgeError("SERVICE_UNREACHABLE", detail)
        case grpc.StatusCode.RESOURCE_EXHAUSTED if any(text in details for text in TOO_LARGE):
            return BridgeError("REQUEST_TOO_LARGE", f"the request is too large: {details}")
        case grpc.StatusCode.RESOURCE_EXHAUSTED if TOO_MANY in details:
            detail = f"the service at {target} has too many calls to take this one; retry"
            return BridgeError("TOO_MANY_CALLS", detail, headers={"Retry-After": "1"})
        case grpc.StatusCode.CANCELLED:  # as gRPC 1.85 ends calls in the same case
            detail = f"the service at {target} has too many calls to take this one; retry"
            return BridgeError("TOO_MANY_CALLS", detail, headers={"Retry-After": "1"})
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return BridgeError("GENERATION_TIMEOUT", "the service did not answer in time")
        case _:
            detail = f"the service at {target} failed with {code.name}: {details or 'no details'}"
            return BridgeError("INTERNAL", detail)
