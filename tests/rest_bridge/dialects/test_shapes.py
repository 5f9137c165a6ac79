"""The errors of the service and of engines, in the shape of each dialect."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rest_bridge.dialects.endpoints import shape_at
from rest_bridge.dialects.shapes import (
    ANTHROPIC,
    OPENAI,
    RESPONSES,
    Shape,
    of_engine,
    of_service,
    status_of,
)
from rest_bridge.errors import BridgeError


def service(shape: Shape, reason: str, **more: Any) -> Any:
    return json.loads(of_service(shape, BridgeError(reason, "do this", **more)))


def engine(shape: Shape, body: bytes, status: int = 400) -> Any:
    return json.loads(of_engine(shape, status, body))


def test_errors_of_the_service() -> None:
    assert service(OPENAI, "MODEL_NOT_FOUND") == {
        "error": {
            "message": "do this",
            "type": "not_found_error",
            "param": None,
            "code": "model_not_found",
        }
    }
    assert service(OPENAI, "INVALID_PARAMETER", field="n")["error"]["param"] == "n"
    assert service(OPENAI, "PROMPT_TOO_LONG")["error"]["code"] == "context_length_exceeded"
    assert service(OPENAI, "START_FAILED")["error"]["type"] == "server_error"
    assert service(ANTHROPIC, "START_FAILED") == {
        "type": "error",
        "error": {"type": "overloaded_error", "message": "do this"},
    }


def test_a_status_is_one_that_these_dialects_know() -> None:
    assert status_of(BridgeError("INVALID_PARAMETER", "x")) == 400  # 422 on the documented routes
    assert status_of(BridgeError("STREAM_NOT_READ", "x")) == 400
    assert status_of(BridgeError("MODEL_NOT_FOUND", "x")) == 404


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": "a sentence", "error_type": "validation"}', "a sentence"),
        (b'{"object": "error", "message": "a sentence", "code": 400}', "a sentence"),
        (b'{"detail": "a sentence"}', "a sentence"),
        (b'{"detail": {"message": "a sentence"}}', "a sentence"),
        (b'{"detail": [{"loc": ["body"]}]}', '[{"loc": ["body"]}]'),
        (b" a sentence\n", "a sentence"),
        (b'"a sentence"', "a sentence"),
        (b"\xff", "\ufffd"),
        (b"", "the engine has answered with the status 400"),
        (b"{}", "the engine has answered with the status 400"),
        (b"[" * 100_000, "[" * 100_000),
    ],
)
@pytest.mark.parametrize("shape", [OPENAI, ANTHROPIC])
def test_errors_of_engines_get_the_shape(shape: Shape, body: bytes, message: str) -> None:
    made = engine(shape, body)
    assert shape.fits(made)
    assert made["error"]["message"] == message


@pytest.mark.parametrize(
    ("shape", "body"),
    [
        (OPENAI, b'{"error": {"message": "x", "code": 400, "other": 1}}'),
        (ANTHROPIC, b'{"type":"error","error":{"type":"api_error","message":"x"}}'),
    ],
)
def test_errors_that_have_the_shape_stay_as_they_are(shape: Shape, body: bytes) -> None:
    assert of_engine(shape, 400, body) == body


@pytest.mark.parametrize("kind", ['"BadRequestError"', "5", "[]", "null"])
def test_an_error_of_anthropic_has_a_type_of_anthropic(kind: str) -> None:
    body = f'{{"type": "error", "error": {{"type": {kind}, "message": "x"}}}}'.encode()

    assert json.loads(of_engine(ANTHROPIC, 400, body)) == {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": "x"},
    }


def test_an_error_in_a_stream_is_its_last_event() -> None:
    error = BridgeError("ENGINE_FAILED", "do\nthis")
    assert OPENAI.event(of_service(OPENAI, error)).endswith(b"}\n\ndata: [DONE]\n\n")
    assert OPENAI.event(of_service(OPENAI, error)).count(b"\n\n") == 2
    assert ANTHROPIC.event(of_service(ANTHROPIC, error)).startswith(b'event: error\ndata: {"type"')
    event = RESPONSES.event(of_service(RESPONSES, error))
    data = json.loads(event.partition(b"data: ")[2])
    assert (data["type"], data["code"], data["sequence_number"]) == ("error", "engine_failed", 0)


def test_paths_have_shapes() -> None:
    assert shape_at("/v1/chat/completions") is shape_at("/v1/nonsense") is OPENAI
    assert shape_at("/v1/messages") is shape_at("/v1/messages/batches") is ANTHROPIC
    assert shape_at("/tokenize") is OPENAI
    assert shape_at("/v1/responses") is RESPONSES
    assert shape_at("/generate") is shape_at("/models/\ud800") is None
