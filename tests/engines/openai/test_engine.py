"""The engine `openai`, with answers of servers that differ in every way that was seen."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from inference_service.catalog import ModelSpec
from inference_service.engines.base import Chunk, Finish, FinishReason, Prompt
from inference_service.engines.openai.engine import Openai
from inference_service.engines.openai.section import OpenaiNeeds
from inference_service.errors import (
    EngineFailed,
    EngineLost,
    EngineOverloaded,
    InvalidParameter,
    InvalidRequest,
    LaunchError,
    PromptTooLong,
    ServiceError,
)
from inference_service.runtimes.base import Instance
from tests.engines.scripted import Answer, ScriptedServer, event, plain, serving, stream

PROMPT = Prompt("Once upon a time", max_new_tokens=5)
STOP = Prompt("Once upon a time", max_new_tokens=5, stop=(" little",))
DONE = b"data: [DONE]\n\n"
FINISH = Finish(FinishReason.LENGTH, 4, 3)


@pytest.fixture
async def engine(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Openai]:
    """An engine that gives each read at once."""
    monkeypatch.setattr("inference_service.engines.answer.GATHER", 0)
    engine = Openai()
    yield engine
    await engine.aclose()


def spec(**section: Any) -> ModelSpec:
    needs = OpenaiNeeds.model_validate({"url": "http://somewhere"} | section)
    return ModelSpec(id="tiny", hf_name="a/tiny", context_length=128, sections={"openai": needs})


def piece(text: str | None, finish: str | None = None, **more: Any) -> bytes:
    """Make an event with a choice; `more` are fields of the event."""
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
    return event({"object": "text_completion", "model": "tiny", "choices": [choice]} | more)


def usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": 4, "completion_tokens": tokens, "total_tokens": 4 + tokens}


def total(tokens: int = 3) -> bytes:
    """Make the event with the counts, which has no choice."""
    return event({"choices": [], "usage": usage(tokens)})


async def generate(
    engine: Openai, *answers: Answer, prompt: Prompt = PROMPT, **section: Any
) -> list[Chunk]:
    async with serving(*answers) as server:
        return [c async for c in engine.generate(server.instance, spec(**section), prompt)]


def text(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


async def asked(engine: Openai, prompt: Prompt, **section: Any) -> dict[str, Any]:
    """Return the JSON of a request."""
    answer = stream(piece(" a", "length", usage=usage(1)))
    async with serving(answer) as server:
        async for _ in engine.generate(server.instance, spec(**section), prompt):
            pass
    ((path, body),) = server.requests
    assert path == "/v1/completions"
    assert isinstance(body, dict)
    return body


async def test_a_request_has_only_what_openais_own_api_knows(engine: Openai) -> None:
    assert await asked(engine, PROMPT) == {
        "model": "tiny",
        "prompt": "Once upon a time",
        "max_tokens": 5,
        "temperature": 0.7,
        "top_p": 0.95,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_options_go_under_the_names_of_the_engine(engine: Openai) -> None:
    prompt = Prompt("once", 5, 0.0, 1.0, 7, 1.2, 3, ("a", "b"))
    options = {"top_k": "top_k", "repetition_penalty": "repeat_penalty", "stop": False}
    body = {"min_p": 0.0, "stream_options": {"continuous_usage_stats": True}}

    assert await asked(engine, prompt, options=options, body=body) == {
        "model": "tiny",
        "prompt": "once",
        "max_tokens": 5,
        "temperature": 0.0,
        "top_p": 1.0,
        "top_k": 7,
        "repeat_penalty": 1.2,
        "seed": 3,
        "min_p": 0.0,
        "stream": True,
        "stream_options": {"continuous_usage_stats": True},
    }


async def test_samplers_that_are_off_are_sent_where_the_engine_has_them(engine: Openai) -> None:
    """The default of a server may be on: llama.cpp's `top_k` is 40, vLLM's that of the model."""
    options = {"top_k": "top_k", "repetition_penalty": "repetition_penalty"}

    body = await asked(engine, PROMPT, options=options)

    assert (body["top_k"], body["repetition_penalty"]) == (-1, 1.0)
    assert "seed" not in body and "stop" not in body


@pytest.mark.parametrize(
    ("changes", "section", "field"),
    [
        ({"top_k": 5}, {}, "top_k"),
        ({"repetition_penalty": 1.1}, {}, "repetition_penalty"),
        ({"seed": 0}, {"options": {"seed": False}}, "seed"),
        ({"top_p": 0.9}, {"options": {"top_p": False}}, "top_p"),
    ],
)
async def test_an_option_that_the_engine_has_not_is_refused(
    engine: Openai, changes: dict[str, Any], section: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidParameter, match=f"^{field} is no option of the engine of tiny"):
        await generate(engine, prompt=Prompt("once", **changes), **section)


async def test_without_counts_chunks_have_none_and_the_finish_has_the_sum(engine: Openai) -> None:
    answer = stream(piece(" a"), piece(" b"), piece(" c", "length"), total() + DONE)

    assert await generate(engine, answer) == [
        Chunk(" a", 0),
        Chunk(" b", 0),
        Chunk(" c", 0),
        Chunk("", 0, FINISH),
    ]


async def test_a_text_in_one_chunk_has_all_the_tokens(engine: Openai) -> None:
    answer = stream(piece(" a") + piece(" b c", "length") + total())

    assert await generate(engine, answer) == [Chunk(" a b c", 3, FINISH)]


async def test_counts_that_come_along_are_those_of_the_chunks(engine: Openai) -> None:
    """As vLLM with `continuous_usage_stats`: each event has the counts so far."""
    answer = stream(
        piece("", usage=usage(0)) + piece(" a", usage=usage(1)),
        piece("", usage=usage(2)),
        piece(" bc", usage=usage(3)),
        piece(" d", "length", usage=usage(5)),
    )

    assert await generate(engine, answer) == [
        Chunk(" a", 1),
        Chunk(" bc", 2),
        Chunk(" d", 2, Finish(FinishReason.LENGTH, 4, 5)),
    ]


async def test_timings_of_llama_cpp_are_counts_too(engine: Openai) -> None:
    def timings(tokens: int) -> dict[str, float]:
        return {"cache_n": 3, "prompt_n": 1, "predicted_n": tokens, "predicted_ms": 1.5}

    answer = stream(
        piece(" a", timings=timings(1)),
        piece(" b", timings=timings(2)),
        piece("", "stop", timings=timings(3), usage=usage(3)),
    )

    assert await generate(engine, answer) == [
        Chunk(" a", 1),
        Chunk(" b", 1),
        Chunk("", 1, Finish(FinishReason.STOP, 4, 3)),
    ]


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([piece(" a b", "length"), total(), DONE], id="usage by itself"),
        pytest.param([piece(" a b", "length", usage=usage(3)), DONE], id="usage at the end"),
        pytest.param([piece(" a b", "length", usage=usage(3))], id="no [DONE]"),
        pytest.param([piece(" a b", "length"), total(), b"data: [DONE]\n"], id="half a [DONE]"),
        pytest.param([piece(" a b", ""), piece("", "length"), total(), DONE], id="empty reason"),
        pytest.param(
            [piece(" a b", None, usage=None), piece(None, "length", usage=None), total(), DONE],
            id="nulls",
        ),
        pytest.param(
            [b": ping\n\n", b"event: x\nid: 7\n" + piece(" a b", "length"), b":\n\n", total()],
            id="comments and other fields",
        ),
        pytest.param(
            [b"\xef\xbb\xbf" + piece(" a b", "length").replace(b"\n", b"\r\n"), total() + DONE],
            id="a byte order mark, and CRLF",
        ),
        pytest.param(
            [event({"choices": [], "prompt_filter_results": []}), piece(" a b", "length"), total()],
            id="an event without a choice at first",
        ),
        pytest.param(
            [event({"object": "keep-alive"}), piece(" a b", "length"), total(), DONE],
            id="an event that is nothing",
        ),
        pytest.param(
            [piece(" a b", "length", model="tiny:2024-08-06"), total(), DONE],
            id="a name with a date",
        ),
        pytest.param(
            [
                event({"choices": [{"index": 1, "text": " x", "finish_reason": "stop"}]}),
                event(
                    {
                        "choices": [
                            {"index": 1, "text": " y"},
                            {"index": 0, "text": " a b", "finish_reason": "length"},
                        ]
                    }
                ),
                total(),
            ],
            id="several choices",
        ),
    ],
)
async def test_a_text_is_read_however_the_server_puts_it(
    engine: Openai, pieces: list[bytes]
) -> None:
    chunks = await generate(engine, stream(*pieces))

    assert text(chunks) == " a b"
    assert chunks[-1].finish == FINISH


async def test_done_within_a_text_is_text(engine: Openai) -> None:
    answer = stream(piece(" [DONE]") + piece("\n[DONE]\n", "length"), total() + DONE)

    assert text(await generate(engine, answer)) == " [DONE]\n[DONE]\n"


async def test_counts_that_no_server_sends_are_zero(engine: Openai) -> None:
    (*_, last) = await generate(engine, stream(piece(" a"), piece(" b", "stop"), DONE))

    assert last.finish == Finish(FinishReason.STOP, 0, 0)


async def test_the_end_is_the_end_though_the_server_goes_on(engine: Openai) -> None:
    for pieces in ([piece(" a", "length", usage=usage(3))], [piece(" a", "length"), DONE]):
        async with serving(stream(*pieces, end="hold")) as server:
            chunks = engine.generate(server.instance, spec(), PROMPT)
            assert text([chunk async for chunk in chunks]) == " a"
            await server.until_left()


async def test_a_caller_that_leaves_ends_the_request(engine: Openai) -> None:
    async with serving(stream(piece(" a"), end="hold")) as server:
        async with aclosing(engine.generate(server.instance, spec(), PROMPT)) as chunks:
            assert await anext(chunks) == Chunk(" a", 0)
        await server.until_left()


# Stop sequences.


async def test_the_engine_says_which_sequence_has_ended_the_text(engine: Openai) -> None:
    for more, reason in (
        ({"stop_reason": " little"}, FinishReason.STOP_SEQUENCE),
        ({"matched_stop": " little"}, FinishReason.STOP_SEQUENCE),
        ({"matched_stop": 2}, FinishReason.STOP),
        ({"stop_reason": None}, FinishReason.STOP),
        ({}, FinishReason.STOP),
    ):
        choice = {"index": 0, "text": " a", "finish_reason": "stop"} | more
        answer = stream(event({"choices": [choice], "usage": usage(3)}))

        assert await generate(engine, answer, prompt=STOP) == [Chunk(" a", 3, Finish(reason, 4, 3))]


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([piece(" a"), piece(" litt"), piece("le"), piece("", "stop")], id="all of it"),
        pytest.param([piece(" a"), piece(" little girl"), piece("", "stop")], id="and more"),
    ],
)
async def test_a_sequence_that_the_server_lets_through_is_cut(
    engine: Openai, pieces: list[bytes]
) -> None:
    """As transformers: its last token has the sequence. The counts come after it."""
    chunks = await generate(engine, stream(*pieces, total(), DONE), prompt=STOP)

    assert text(chunks) == " a"
    assert chunks[-1].finish == Finish(FinishReason.STOP_SEQUENCE, 4, 3)


async def test_a_server_that_does_not_stop_is_left(engine: Openai) -> None:
    answer = stream(piece(" a little"), piece(" girl"), end="hold")
    async with serving(answer) as server:
        chunks = engine.generate(server.instance, spec(), STOP)
        assert [chunk async for chunk in chunks] == [
            Chunk(" a", 0),
            Chunk("", 0, Finish(FinishReason.STOP_SEQUENCE, 0, 0)),
        ]
        await server.until_left()


async def test_sequences_that_are_ours_to_find_end_the_text_at_once(engine: Openai) -> None:
    answer = stream(
        piece(" a", usage=usage(1)),
        piece(" lit", usage=usage(2)),
        piece("tle", usage=usage(3)) + piece(" girl", usage=usage(4)),
        end="hold",
    )
    async with serving(answer) as server:
        model = spec(options={"stop": False})
        chunks = engine.generate(server.instance, model, STOP)
        assert [chunk async for chunk in chunks] == [
            Chunk(" a", 1),
            Chunk("", 2, Finish(FinishReason.STOP_SEQUENCE, 4, 3)),
        ]
        await server.until_left()


async def test_text_that_might_have_begun_a_sequence_comes_at_the_end(engine: Openai) -> None:
    answer = stream(piece(" a"), piece(" lit"), piece("", "length"), total(), DONE)

    chunks = await generate(engine, answer, prompt=STOP)

    assert text(chunks) == " a lit"
    assert chunks[-1].finish == FINISH


# Errors.

VLLM_LONG = (
    "This model's maximum context length is 512 tokens. However, your prompt contains at least 513 "
    "input tokens, which exceeds this limit even without any output tokens."
)
LLAMACPP_LONG = "request (601 tokens) exceeds the available context size (512 tokens)"


def refusal(status: int, error: object) -> Answer:
    return plain(status, json.dumps(error).encode())


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        pytest.param(
            refusal(400, {"error": {"message": VLLM_LONG, "code": 400}}),
            PromptTooLong,
            "at least 513",
            id="vLLM's context",
        ),
        pytest.param(
            refusal(400, {"error": {"message": "max_tokens must be at least 1, got 0."}}),
            PromptTooLong,
            "it leaves no room for a token",
            id="vLLM's context, to the token",
        ),
        pytest.param(
            refusal(
                400, {"error": {"message": LLAMACPP_LONG, "type": "exceed_context_size_error"}}
            ),
            PromptTooLong,
            "601 tokens",
            id="llama.cpp's context",
        ),
        pytest.param(
            refusal(400, {"error": {"message": "too long", "code": "context_length_exceeded"}}),
            PromptTooLong,
            "too long",
            id="OpenAI's context",
        ),
        pytest.param(plain(413, b"too large"), PromptTooLong, "too large", id="a large body"),
        pytest.param(
            refusal(400, {"object": "error", "message": "bad seed", "code": 400}),
            InvalidRequest,
            "refused the request: bad seed",
            id="an old vLLM",
        ),
        pytest.param(
            refusal(422, {"detail": [{"loc": ["body", "top_p"], "msg": "is no number"}]}),
            InvalidRequest,
            "body.top_p: is no number",
            id="FastAPI",
        ),
        pytest.param(
            refusal(422, {"detail": "Unexpected fields in the request: {'top_k'}"}),
            InvalidRequest,
            "Unexpected fields",
            id="transformers",
        ),
        pytest.param(
            refusal(401, {"error": {"message": "Incorrect API key"}}),
            EngineFailed,
            "refuses the key of this service: Incorrect API key; see `key_file`",
            id="the key",
        ),
        pytest.param(
            refusal(404, {"error": {"message": "The model `tiny` does not exist."}}),
            EngineFailed,
            "HTTP 404: The model `tiny` does not exist.; see `url` and `served_name`",
            id="the name",
        ),
        pytest.param(refusal(429, {}), EngineOverloaded, "overloaded", id="429"),
        pytest.param(plain(503, b"busy"), EngineOverloaded, "overloaded", id="503"),
        pytest.param(plain(502, b"<html>"), EngineLost, "HTTP 502: <html>", id="502"),
        pytest.param(plain(500, b"Internal Error"), EngineFailed, "failed: Internal", id="500"),
        pytest.param(refusal(500, {"error": "no memory"}), EngineFailed, "no memory", id="a text"),
        pytest.param(plain(500), EngineFailed, "(empty)", id="nothing"),
        pytest.param(
            plain(200, b"<!DOCTYPE html><title>Login</title>", content_type="text/html"),
            EngineFailed,
            "no stream of events: <!DOCTYPE html><title>Login",
            id="HTML",
        ),
        pytest.param(
            refusal(200, {"choices": [{"text": " a"}]}),
            EngineFailed,
            "no stream of events: {",
            id="JSON in place of a stream",
        ),
        pytest.param(plain(302, b"", header="location: /login"), EngineFailed, "empty", id="302"),
    ],
)
async def test_a_refusal_is_an_error_that_says_what_to_do(
    engine: Openai, answer: Answer, kind: type[ServiceError], message: str
) -> None:
    with pytest.raises(ServiceError) as caught:
        await generate(engine, answer)

    assert type(caught.value) is kind
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("pieces", "kind", "message"),
    [
        pytest.param(
            [event({"error": {"message": "out of memory", "code": 500}}), DONE],
            EngineFailed,
            "failed: out of memory",
            id="an object",
        ),
        pytest.param(
            [b"event: error\n" + event({"error": "Compute error.", "message": "x"})],
            EngineFailed,
            "failed: Compute error.",
            id="a text",
        ),
        pytest.param(
            [event({"object": "error", "message": "aborted", "code": 40303})],
            EngineFailed,
            "failed: aborted",
            id="an object of its own",
        ),
        pytest.param(
            [event({"error": {"message": LLAMACPP_LONG, "code": 400}})],
            PromptTooLong,
            "601 tokens",
            id="the context",
        ),
        pytest.param(
            [event({"error": {"message": "slow down", "code": 429}})],
            EngineOverloaded,
            "overloaded",
            id="load",
        ),
        pytest.param([DONE], EngineFailed, "without a `finish_reason`", id="no finish_reason"),
        pytest.param([], EngineLost, "before the text was finished", id="no end"),
        pytest.param([piece("", "abort")], EngineLost, "broke the text off", id="abort"),
        pytest.param(
            [piece("", "content_filter")], EngineFailed, "content_filter", id="another reason"
        ),
        pytest.param([b"data: {nope\n\n"], EngineFailed, "not its own", id="no JSON"),
        pytest.param(
            [b'data: {"error": "a "quoted" text"}\n\n'], EngineFailed, "quoted", id="bad quotes"
        ),
        pytest.param([b'data: "\xff"\n\n'], EngineFailed, "not its own", id="no UTF-8"),
        pytest.param(
            [b'data: {"choices"\ndata: {"error": {}}\n\n'], EngineFailed, "not its own", id="two"
        ),
    ],
)
async def test_an_error_in_a_stream_follows_what_was_sent(
    engine: Openai, pieces: list[bytes], kind: type[ServiceError], message: str
) -> None:
    async with serving(stream(piece(" a"), *pieces)) as server:
        chunks = engine.generate(server.instance, spec(), PROMPT)
        assert await anext(chunks) == Chunk(" a", 0)
        with pytest.raises(ServiceError) as caught:
            await anext(chunks)

    assert type(caught.value) is kind
    assert message in caught.value.message


async def test_a_connection_that_is_cut_is_a_loss(engine: Openai) -> None:
    for pieces in ([], [piece(" a")], [piece(" a"), b'data: {"cho']):
        with pytest.raises(EngineLost):
            await generate(engine, stream(*pieces, end="cut"))


@pytest.mark.parametrize(
    "message",
    [
        "maximum context length is 128 tokens. However, 130 tokens (125 in the messages",
        "maximum context length is 128 tokens, however 130 tokens (125 in your prompt",
        "maximum context length is 128 tokens and your request has 125 input tokens.",
        "maximum context length of 128 tokens. You requested a total: 125 tokens from the input",
    ],
)
async def test_a_text_that_has_less_room_is_asked_for_again(engine: Openai, message: str) -> None:
    answers = [refusal(400, {"error": {"message": message}})]
    answers.append(stream(piece(" a b c", "length", usage=usage(3))))
    async with serving(*answers) as server:
        chunks = engine.generate(server.instance, spec(), PROMPT)
        assert text([chunk async for chunk in chunks]) == " a b c"

    assert [body["max_tokens"] for _, body in server.requests] == [5, 3]


async def test_a_server_that_refuses_what_fits_is_asked_once(engine: Openai) -> None:
    message = "maximum context length is 128 tokens (10 in your prompt)"

    with pytest.raises(EngineFailed, match="refuses a request that fits"):
        await generate(engine, refusal(400, {"error": {"message": message}}))


# Readiness.


def instance(server: ScriptedServer, health: str = "/v1/models", **changes: Any) -> Instance:
    return dataclasses.replace(server.instance, health=health, **changes)


def models(*names: str) -> Answer:
    return refusal(200, {"object": "list", "data": [{"id": name} for name in names]})


@pytest.mark.parametrize(
    ("answers", "section", "expected"),
    [
        ([models("other", "tiny")], {}, True),
        ([models("other")], {"model": "other"}, True),
        ([models()], {}, False),
        ([refusal(503, {"error": {"message": "Loading model"}})], {}, False),
        ([plain(404)], {"port": 8080}, False),
        ([plain(200, b"OK"), models("tiny")], {"health": "/health"}, True),
        ([plain(200), plain(404)], {"health": "/health"}, True),
        ([plain(200), models()], {"health": "/health"}, True),
        ([plain(500)], {"health": "/health"}, False),
        ([plain(200, b'{"data": "?"}')], {}, True),
    ],
)
async def test_ready_is_what_the_health_and_the_list_of_models_say(
    engine: Openai, answers: list[Answer], section: dict[str, Any], expected: bool
) -> None:
    async with serving(*answers) as server:
        assert await engine.ready(instance(server, **section)) is expected


@pytest.mark.parametrize(
    ("answers", "section", "message"),
    [
        ([models("/models/a.gguf")], {}, "serves '/models/a.gguf', and not 'tiny'"),
        ([plain(200), models("other")], {"health": "/health"}, "serves 'other', and not 'tiny'"),
        (
            [plain(200, b"<html>", content_type="text/html")],
            {},
            "/v1/models is a page for people, and no engine; see `url`",
        ),
        ([plain(401)], {}, "/v1/models refuses the key of this service; see `key_file`"),
        ([plain(404)], {}, "/v1/models is not there (HTTP 404); see `url` and `health`"),
    ],
)
async def test_an_engine_that_can_never_serve_the_model_is_not_waited_for(
    engine: Openai, answers: list[Answer], section: dict[str, Any], message: str
) -> None:
    async with serving(*answers) as server:
        with pytest.raises(LaunchError) as caught:
            await engine.ready(instance(server, **section))

    assert message in str(caught.value)


async def test_nothing_that_listens_is_not_ready(engine: Openai) -> None:
    nowhere = Instance("engine", "http://127.0.0.1:1", 1, "tiny", health="/health")
    assert not await engine.ready(nowhere)
