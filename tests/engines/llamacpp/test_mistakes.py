"""Errors of llama.cpp, with the status and code that clients know."""

from __future__ import annotations

import json
from typing import Any

import pytest

from inference_service.engines.exchange import Head
from inference_service.engines.llamacpp.mistakes import mended


def error(status: int, message: str, **fields: Any) -> tuple[Head, bytes]:
    data = {"error": {"code": status, "message": message, "type": "server_error"} | fields}
    return Head(status, {b"content-type": b"application/json"}), json.dumps(data).encode()


def test_a_prompt_that_is_too_long_has_the_code_of_openai() -> None:
    kind = "exceed_context_size_error"
    head, body = mended(*error(400, "too long", type=kind, n_prompt_tokens=1204, n_ctx=512))

    assert head.status == 400
    assert json.loads(body)["error"] == {
        "code": "context_length_exceeded",
        "message": "too long",
        "type": kind,
        "n_prompt_tokens": 1204,
        "n_ctx": 512,
    }


# As llama.cpp wrote them.
MISTAKES = [
    "'messages' is required",
    "Failed to parse messages: [json.exception.out_of_range.403] key 'text' not found",
    "Failed to parse tools: [json.exception.type_error.302] type must be string; tools = []",
    "image input is not supported - hint: you may need to provide the mmproj",
    "audio input is not supported - hint: you may need to provide the mmproj",
    "Unknown reasoning format: 5",
    "vector::_M_range_check: __n (which is 99999999) >= this->size() (which is 2048)",
]


@pytest.mark.parametrize("message", MISTAKES)
def test_a_mistake_of_the_caller_is_a_400(message: str) -> None:
    head, body = mended(*error(500, message))

    assert (head.status, head.content_type) == (400, "application/json")
    assert json.loads(body)["error"] == {
        "code": 400,
        "message": message,
        "type": "invalid_request_error",
    }


def test_an_input_beyond_the_batch_is_too_long() -> None:
    head, body = mended(*error(500, "input (1202 tokens) is too large to process. increase the"))

    assert head.status == 400
    assert json.loads(body)["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    ("head", "body"),
    [
        error(500, "llama_decode failed"),
        error(400, "'messages' is required"),
        (Head(500, {}), b"no JSON"),
        (Head(500, {}), b'"\xff"'),
        (Head(500, {}), b"[" * 100_000),
        (Head(500, {}), b"{}"),
        (Head(500, {}), b'{"error": "\'x\' is required"}'),
        (Head(400, {}), b'{"error": {"message": 5}}'),
    ],
)
def test_any_other_error_stays_as_it_is(head: Head, body: bytes) -> None:
    assert mended(head, body) == (head, body)
