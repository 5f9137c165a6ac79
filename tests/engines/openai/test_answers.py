"""Errors of servers of OpenAI's JSON, as the sink of a caller gets them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from inference_service.engines.exchange import Head, Request
from inference_service.engines.openai.answers import mended
from inference_service.engines.openai.engine import Openai
from tests.engines.scripted import Answer, plain, serving, stream
from tests.sinks import Kept

CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"

# As vLLM 0.32 and llama-server (build 11434) wrote them.
VLLM = (
    "This model's maximum context length is 512 tokens. However, your prompt contains 12028 "
    "characters (more than 6656 characters, which is the upper bound for 512 input tokens). Please "
    "reduce the length of the input prompt. (parameter=input_text, value=12028)"
)
TOO_LONG: list[tuple[int, dict[str, Any]]] = [
    (400, {"message": VLLM, "type": "BadRequestError", "param": "input_text", "code": 400}),
    (400, {"message": "max_tokens must be at least 1, got 0", "param": "max_tokens", "code": 400}),
    (400, {"code": 400, "message": "too large", "type": "exceed_context_size_error", "n_ctx": 512}),
]


@pytest.fixture
async def engine() -> AsyncIterator[Openai]:
    engine = Openai()
    yield engine
    await engine.aclose()


async def asked(engine: Openai, answer: Answer, path: str = CHAT) -> Kept:
    sink = Kept()
    async with serving(answer) as server:
        await engine.ask(server.instance, Request("POST", path, b"{}", "application/json"), sink)
    assert sink.ends == [None]
    return sink


@pytest.mark.parametrize(("status", "error"), TOO_LONG)
async def test_a_prompt_that_is_too_long_has_the_code_of_openai(
    engine: Openai, status: int, error: dict[str, Any]
) -> None:
    body = json.dumps({"error": error}).encode()
    sink = await asked(engine, plain(status, body[:20], body[20:]))

    assert sink.heads[0].status == status
    assert json.loads(sink.body) == {"error": error | {"code": "context_length_exceeded"}}


@pytest.mark.parametrize(
    "body",
    [b'{"detail": "Not Found"}', b"", b"Not Found\n", b'{"error": {"message": "File Not Found"}}'],
)
async def test_a_path_that_the_engine_does_not_have_is_named(engine: Openai, body: bytes) -> None:
    sink = await asked(engine, plain(404, *filter(None, [body])), EMBEDDINGS)

    assert sink.heads[0].status == 404
    assert json.loads(sink.body)["error"] == {
        "message": "the engine of this model has no path /v1/embeddings: use a model that has it",
        "type": "not_found_error",
        "param": None,
        "code": "path_not_offered",
    }


ANTHROPIC = b'{"type": "error", "error": {"type": "BadRequestError", "message": "context length"}}'


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, b'{"error": {"message": "temperature must be non-negative", "code": 400}}'),
        (400, ANTHROPIC),  # which has no codes
        (400, b'{"detail": "context length"}'),
        (400, b"the context length is 512"),
        (400, b"\xff"),
        (400, b"[" * 50_000),
        (400, b"5"),
        (400, b'{"error": null}'),
        (404, b'{"error": {"message": "The model `x` does not exist.", "code": 404}}'),
        (404, b'{"error": {"message": "Response with id \'r\' not found."}}'),
        (500, b'{"error": {"message": "context length"}}'),
    ],
)
async def test_any_other_error_stays_as_it_is(engine: Openai, status: int, body: bytes) -> None:
    sink = await asked(engine, plain(status, body, header="retry-after: 7"))

    assert (sink.heads[0].status, sink.body) == (status, body)
    assert sink.heads[0].headers[b"retry-after"] == b"7"


async def test_other_answers_go_on_as_they_come(engine: Openai) -> None:
    pieces = [b"data: {\n\n", b"\xff", b'{"error": {"message": "context length"}}']
    for answer in (stream(*pieces), plain(200, *pieces)):
        assert (await asked(engine, answer)).pieces == pieces


def test_a_path_of_nobody_is_not_named() -> None:
    head = Head(404, {})

    assert mended(Request("GET", "/no/such/path"), head, b"") == (head, b"")
