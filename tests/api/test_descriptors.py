"""The descriptors that the package carries."""

from __future__ import annotations

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from inference_service.api.descriptors import Descriptors, descriptors
from inference_service.v1 import errors_pb2

PACKAGE = "inference_service.v1"
MODEL_SERVICE = f"{PACKAGE}/model_service.proto".replace(".", "/", 1)
ERRORS = "inference_service/v1/errors.proto"


@pytest.fixture
def known() -> Descriptors:
    return descriptors()


def test_the_services_are_those_that_a_client_can_call(known: Descriptors) -> None:
    assert known.services == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "inference_service.v1.ModelService",
    ]


@pytest.mark.parametrize(
    ("symbol", "file"),
    [
        pytest.param("inference_service.v1.ModelService", "model_service", id="service"),
        pytest.param("inference_service.v1.ModelService.Generate", "model_service", id="method"),
        pytest.param("inference_service.v1.Model", "model_service", id="message"),
        pytest.param("inference_service.v1.Model.last_error", "model_service", id="field"),
        pytest.param("inference_service.v1.ForwardResponse.event", "model_service", id="oneof"),
        pytest.param("inference_service.v1.ModelError.MetadataEntry", "model_error", id="nested"),
        pytest.param("inference_service.v1.ErrorReason", "errors", id="enum"),
        pytest.param("inference_service.v1.ERROR_REASON_INTERNAL", "errors", id="value"),
        pytest.param(
            "inference_service.v1.ErrorReason.ERROR_REASON_INTERNAL", "errors", id="value in enum"
        ),
        pytest.param("inference_service.v1.error_rule", "errors", id="extension"),
    ],
)
def test_each_symbol_is_in_its_file(known: Descriptors, symbol: str, file: str) -> None:
    assert known.symbols[symbol] == f"inference_service/v1/{file}.proto"


def test_the_types_of_errors_and_the_options_are_there_too(known: Descriptors) -> None:
    assert known.symbols["google.rpc.BadRequest.FieldViolation"] == "google/rpc/error_details.proto"
    assert known.symbols["google.api.http"] == "google/api/annotations.proto"
    number = errors_pb2.error_rule.number
    assert known.extensions["google.protobuf.EnumValueOptions"] == {number: ERRORS}


def test_a_file_comes_with_what_it_imports_and_first(known: Descriptors) -> None:
    sent: set[str] = set()

    files = [FileDescriptorProto.FromString(f) for f in known.with_imports(MODEL_SERVICE, sent)]

    names = [proto.name for proto in files]
    assert names[0] == MODEL_SERVICE
    assert {ERRORS, "google/protobuf/descriptor.proto", "google/api/http.proto"} < set(names)
    assert set(names) == sent and len(names) == len(sent)
    for proto in files:
        assert sent.issuperset(proto.dependency)


def test_what_is_known_is_not_sent_again_but_for_the_file_itself(known: Descriptors) -> None:
    sent: set[str] = set()
    known.with_imports(MODEL_SERVICE, sent)

    [again] = known.with_imports(MODEL_SERVICE, sent)

    assert FileDescriptorProto.FromString(again).name == MODEL_SERVICE


def test_a_file_that_is_not_there_becomes_not_known(known: Descriptors) -> None:
    sent: set[str] = set()

    with pytest.raises(KeyError):
        known.with_imports("nothing.proto", sent)

    assert not sent
