"""Errors of the service as statuses of gRPC, by the table in the contract."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf import duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from inference_service.api.statuses import DOMAIN, rule, status_of
from inference_service.errors import InvalidParameter, ServiceError
from inference_service.v1.error_code_pb2 import ErrorCode
from inference_service.v1.errors_pb2 import ErrorReason
from tests.test_errors import EXAMPLES, kinds

REASONS = [v.name.removeprefix("ERROR_REASON_") for v in ErrorReason.DESCRIPTOR.values][1:]
OF_THE_BRIDGE = {"SERVICE_UNREACHABLE"}


ERRORS = {type(error).__name__: error for error in EXAMPLES.values()}


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_has_a_rule(reason: str) -> None:
    found = rule(reason)

    assert found.code in {code for code in ErrorCode.values() if code}
    assert 400 <= found.http_status < 600
    assert found.action.endswith(".")
    assert found.code_after_first_token in (
        ErrorCode.ERROR_CODE_UNSPECIFIED,
        ErrorCode.ERROR_CODE_ABORTED,
    )


def test_the_codes_are_those_of_grpc() -> None:
    ours = {name.removeprefix("ERROR_CODE_"): number for name, number in ErrorCode.items()}

    assert ours == {"UNSPECIFIED": 0} | {
        code.name: code.value[0] for code in grpc.StatusCode if code is not grpc.StatusCode.OK
    }


def test_an_unknown_reason_has_no_rule() -> None:
    with pytest.raises(KeyError):
        rule("NONSENSE")


def test_the_reasons_of_the_errors_are_those_of_the_proto() -> None:
    assert {error.reason for error in ERRORS.values()} == set(REASONS) - OF_THE_BRIDGE


def test_errors_share_a_reason_only_with_the_class_that_they_derive_from() -> None:
    own = [kind.reason for kind in kinds() if "reason" in vars(kind)]

    assert len(set(own)) == len(own)


def details(status: status_pb2.Status, *kinds: type[Message]) -> list[Message]:
    """Return the details, which must be of these kinds, in this order."""
    found = [kind() for kind in kinds]
    assert len(found) == len(status.details)
    assert all(p.Unpack(message) for p, message in zip(status.details, found, strict=True))
    return found


@pytest.mark.parametrize("name", ERRORS)
def test_a_status_has_the_code_the_message_and_one_error_info(name: str) -> None:
    error = ERRORS[name]
    status = status_of(error)

    assert (status.code, status.message) == (rule(error.reason).code, error.message)
    info = error_details_pb2.ErrorInfo()
    assert [packed.Unpack(info) for packed in status.details].count(True) == 1
    assert (info.reason, info.domain, info.metadata) == (error.reason, DOMAIN, error.metadata)


def test_a_status_has_all_facts_of_an_error() -> None:
    error = ServiceError("top_k is odd", field="top_k", retry_after=1.25, log=["a", "b"])

    _, bad, retry, debug = details(
        status_of(error),
        error_details_pb2.ErrorInfo,
        error_details_pb2.BadRequest,
        error_details_pb2.RetryInfo,
        error_details_pb2.DebugInfo,
    )

    assert bad == error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(field="top_k", description="top_k is odd")
        ]
    )
    delay = duration_pb2.Duration(seconds=1, nanos=250_000_000)
    assert retry == error_details_pb2.RetryInfo(retry_delay=delay)
    assert debug == error_details_pb2.DebugInfo(stack_entries=["a", "b"])


def bad_request(violations: dict[str, str]) -> error_details_pb2.BadRequest:
    error = InvalidParameter(violations)
    _, bad = details(status_of(error), error_details_pb2.ErrorInfo, error_details_pb2.BadRequest)
    assert isinstance(bad, error_details_pb2.BadRequest)
    return bad


def test_each_mistake_is_a_violation_of_its_own_field() -> None:
    bad = bad_request({"top_k": "is odd", "stop": "is long"})

    found = [(each.field, each.description) for each in bad.field_violations]
    assert found == [("top_k", "top_k is odd"), ("stop", "stop is long")]


def test_a_status_has_room_for_some_violations() -> None:
    """All trailers together may have 8 KiB."""
    bad = bad_request({f"option_{number}": "é" * 1000 for number in range(50)})

    assert [each.field for each in bad.field_violations] == [f"option_{n}" for n in range(6)]
    assert all(each.description.endswith("é...") for each in bad.field_violations)


def test_a_retry_at_once_is_sent_too() -> None:
    _, retry = details(
        status_of(ServiceError("busy", retry_after=0)),
        error_details_pb2.ErrorInfo,
        error_details_pb2.RetryInfo,
    )

    assert retry == error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration())


@pytest.mark.parametrize("name", ERRORS)
def test_the_code_after_the_first_token_is_that_of_the_rule(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = ERRORS[name]
    aborts = error.reason in {"MODEL_STOPPED", "SHUTTING_DOWN", "ENGINE_FAILED"}
    code = rule(error.reason).code

    assert status_of(error).code == code
    for sent in ("1", "0"):  # 0 where the chunks of the engine have no counts
        monkeypatch.setitem(error.metadata, "sent_token_count", sent)
        assert status_of(error).code == (ErrorCode.ERROR_CODE_ABORTED if aborts else code)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        pytest.param(["a", "b"], ["a", "b"], id="all of it"),
        pytest.param(["a" * 700, "b" * 700, "c" * 700], ["b" * 700, "c" * 700], id="the last two"),
        pytest.param(["x", "é" * 5000], ["x", "é" * 373 + "..."], id="no half of a character"),
    ],
)
def test_a_status_has_the_last_lines_of_a_log(given: list[str], kept: list[str]) -> None:
    status = status_of(ServiceError("no", log=given))

    _, debug = details(status, error_details_pb2.ErrorInfo, error_details_pb2.DebugInfo)
    assert debug == error_details_pb2.DebugInfo(stack_entries=kept)
