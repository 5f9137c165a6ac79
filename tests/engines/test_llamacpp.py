"""The engine `llamacpp`, with answers that the real server seldom gives."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from inference_service.catalog import ModelSpec
from inference_service.engines.base import Chunk, Facts, Finish, FinishReason, Prompt
from inference_service.engines.llamacpp import log as worker_log
from inference_service.engines.llamacpp.engine import Llamacpp
from inference_service.engines.llamacpp.section import GgufWeights, LlamacppNeeds
from inference_service.errors import (
    EngineFailed,
    EngineLost,
    EngineOverloaded,
    InvalidParameter,
    PromptTooLong,
    ServiceError,
)
from inference_service.lifecycle import Phase, Progress
from inference_service.runtimes.command import Mount, Seat
from tests.engines.scripted import Answer, event, plain, serving, stream

PROMPT = Prompt("Once upon a time", max_new_tokens=5)


@pytest.fixture
async def engine() -> AsyncIterator[Llamacpp]:
    engine = Llamacpp("llamacpp:0")
    yield engine
    await engine.aclose()


@pytest.fixture
async def at_once(engine: Llamacpp, monkeypatch: pytest.MonkeyPatch) -> Llamacpp:
    """An engine that gives each read at once."""
    monkeypatch.setattr("inference_service.engines.answer.GATHER", 0)
    return engine


def spec(weights: GgufWeights | None = None, **needs: Any) -> ModelSpec:
    weights = weights or GgufWeights(repo="a/tiny", file="tiny.gguf")
    llamacpp = LlamacppNeeds(memory="1GB", weights=weights, **needs)  # type: ignore[arg-type]
    return ModelSpec(
        id="tiny", hf_name="a/tiny", context_length=128, sections={"llamacpp": llamacpp}
    )


def token(text: str, so_far: int) -> bytes:
    """Make an event in the middle of a text, after `so_far` tokens."""
    return event(
        {"content": text, "stop": False, "tokens_predicted": so_far, "tokens_evaluated": 4}
    )


def last(reason: str = "limit", count: int = 3, text: str = "") -> bytes:
    """Make the event after the last token."""
    counts = {"tokens_predicted": count, "tokens_evaluated": 4}
    return event({"content": text, "stop": True, "stop_type": reason} | counts)


def error(code: int, kind: str = "server_error", **facts: Any) -> dict[str, Any]:
    return {"error": {"code": code, "message": "some reason", "type": kind} | facts}


async def generate(engine: Llamacpp, *answers: Answer) -> list[Chunk]:
    async with serving(*answers) as server:
        wanted = replace(PROMPT, max_new_tokens=400)
        return [chunk async for chunk in engine.generate(server.instance, spec(), wanted)]


def ended(reason: FinishReason, count: int = 3) -> Finish:
    return Finish(reason, 4, count)


async def test_each_read_is_a_chunk_and_the_last_has_the_finish(at_once: Llamacpp) -> None:
    answer = stream(token(" a", 1) + token(" b", 2), b":\n\n", token(" c", 3), last())

    assert await generate(at_once, answer) == [
        Chunk(" a b", 2),
        Chunk(" c", 1),
        Chunk("", 0, ended(FinishReason.LENGTH)),
    ]


async def test_all_that_comes_in_one_read_is_one_chunk(engine: Llamacpp) -> None:
    tokens = b"".join([token(f" {n}", n) for n in range(1, 201)])

    chunks = await generate(engine, stream(tokens + last(count=200)))

    assert len(chunks) == 1
    assert chunks[0].token_count == 200
    assert chunks[0].finish == ended(FinishReason.LENGTH, 200)


async def test_a_character_may_be_split_between_reads(at_once: Llamacpp) -> None:
    data = token(" žluť", 1) + token(" 🙂", 2) + last(count=2)
    chunks = await generate(at_once, stream(*(data[at : at + 1] for at in range(len(data)))))

    assert "".join(chunk.text for chunk in chunks) == " žluť 🙂"


async def test_tokens_without_text_are_counted_in_the_next_chunk(
    at_once: Llamacpp,
) -> None:
    """The text is empty while a token may begin a stop sequence, or is half a character."""
    answer = stream(token(" a", 1), token("", 2), token("", 3), token("語", 4), last(count=4))

    chunks = await generate(at_once, answer)

    assert [(chunk.text, chunk.token_count) for chunk in chunks] == [(" a", 1), ("語", 3), ("", 0)]


@pytest.mark.parametrize(
    ("stop_type", "reason"),
    [
        ("eos", FinishReason.STOP),
        ("limit", FinishReason.LENGTH),
        ("none", FinishReason.LENGTH),
    ],
)
async def test_the_finish_has_the_reason_of_llamacpp(
    engine: Llamacpp, stop_type: str, reason: FinishReason
) -> None:
    assert (await generate(engine, stream(last(stop_type))))[-1].finish == ended(reason)


async def texts(engine: Llamacpp, stop: tuple[str, ...], *events: bytes) -> list[Chunk]:
    """Return the chunks of a text with these stop sequences."""
    async with serving(stream(*events)) as server:
        wanted = replace(PROMPT, max_new_tokens=400, stop=stop)
        return [chunk async for chunk in engine.generate(server.instance, spec(), wanted)]


async def test_what_may_begin_a_stop_sequence_is_text_at_the_end(at_once: Llamacpp) -> None:
    """llama.cpp itself would hold it back, and drop it where the limit comes first."""
    for reason in ("limit", "eos"):
        chunks = await texts(at_once, (",QQQ",), token(" a", 1), token(",Q", 2), last(reason, 2))

        assert [chunk.text for chunk in chunks] == [" a", ",Q"]
        assert [chunk.token_count for chunk in chunks] == [1, 1]


async def test_a_text_ends_with_the_token_that_completes_a_sequence(engine: Llamacpp) -> None:
    events = b"".join((token(" a", 1), token(" b,", 2), token("Q c", 3), token(" d", 4)))

    [chunk] = await texts(engine, (",Q",), events + last(count=4))

    assert chunk == Chunk(" a b", 3, ended(FinishReason.STOP_SEQUENCE, 3))


async def test_a_text_that_has_its_stop_sequence_is_left(engine: Llamacpp) -> None:
    async with serving(stream(token(" a,", 1), end="hold")) as server:
        wanted = replace(PROMPT, stop=(",",))
        chunks = [chunk async for chunk in engine.generate(server.instance, spec(), wanted)]
        await server.until_left()

    assert chunks == [Chunk(" a", 1, ended(FinishReason.STOP_SEQUENCE, 1))]


async def test_a_token_without_an_event_is_counted(at_once: Llamacpp) -> None:
    """A token that is a part of a character has none, and its text may never come."""
    answer = stream(token(" a", 1), token("語", 4), last("eos", 6))

    chunks = await generate(at_once, answer)

    assert [(chunk.text, chunk.token_count) for chunk in chunks] == [(" a", 1), ("語", 3), ("", 2)]


async def test_more_tokens_than_were_asked_for_are_an_error(engine: Llamacpp) -> None:
    with pytest.raises(EngineFailed, match="more than 400 tokens"):
        await generate(engine, stream(token(" a", 401), last(count=401)))


def body(error: dict[str, Any]) -> bytes:
    return json.dumps(error).encode()


TOO_LONG = error(400, "exceed_context_size_error", n_prompt_tokens=500, n_ctx=128)


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (plain(400, body(TOO_LONG)), PromptTooLong, "500 tokens, and tiny reads fewer than 128"),
        (stream(event(TOO_LONG)), PromptTooLong, "500 tokens"),
        (plain(429, body(error(429))), EngineOverloaded, "tiny is overloaded"),
        (plain(400, body(error(400))), InvalidParameter, "some reason"),
        (plain(500, body(error(500))), EngineFailed, "some reason"),
        (plain(503, body(error(503, "unavailable_error"))), EngineFailed, "some reason"),
        (stream(token(" a", 1), event(error(500))), EngineFailed, "some reason"),
        (plain(500, b'{"error":"flat"}'), EngineFailed, 'HTTP 500: {"error":"flat"}'),
        (plain(500, b'{"detail":"x"}'), EngineFailed, "HTTP 500"),
        (plain(404, b"", content_type="text/plain"), EngineFailed, r"HTTP 404: \(empty\)"),
        (plain(413, b"Payload", content_type="text/plain"), EngineFailed, "HTTP 413: Payload"),
        (plain(500, b'"\xff"'), EngineFailed, "HTTP 500"),
        (plain(200, b"hello", content_type="text/plain"), EngineFailed, "HTTP 200: hello"),
        (stream(b"data: {nonsense\n\n"), EngineFailed, "not its own"),
        (stream(b"data: [DONE]\n\n"), EngineFailed, "not its own"),
        (stream(b'data: {"content": 5}\n\n'), EngineFailed, "not its own"),
        (stream(b'data: {"content":"\xff"}\n\n'), EngineFailed, "not its own"),
        (stream(), EngineLost, "before the text was finished"),
        (stream(token(" a", 1)), EngineLost, "before the text was finished"),
        (stream(token(" a", 1), end="cut"), EngineLost, "broke the connection"),
    ],
)
async def test_any_other_answer_is_an_error_that_quotes_it(
    engine: Llamacpp, answer: Answer, kind: type[ServiceError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        await generate(engine, answer)


async def test_errors_have_the_facts_that_callers_need(engine: Llamacpp) -> None:
    with pytest.raises(EngineOverloaded) as overloaded:
        await generate(engine, plain(429, body(error(429))))
    with pytest.raises(PromptTooLong) as too_long:
        await generate(engine, plain(400, body(TOO_LONG)))

    assert overloaded.value.retry_after == 1
    assert too_long.value.field == "prompt"
    assert too_long.value.metadata == {"context_length": "128"}


async def test_nothing_is_read_after_the_finish(engine: Llamacpp) -> None:
    async with serving(stream(last(), end="hold")) as server:
        chunks = [chunk async for chunk in engine.generate(server.instance, spec(), PROMPT)]
        await server.until_left()

    assert len(chunks) == 1


async def test_closing_a_text_ends_its_request(engine: Llamacpp) -> None:
    async with serving(stream(token(" a", 1), end="hold")) as server:
        async with aclosing(engine.generate(server.instance, spec(), PROMPT)) as chunks:
            await anext(chunks)
        await server.until_left()


@pytest.mark.parametrize(
    ("prompt", "fields"),
    [
        pytest.param(
            Prompt("x"),
            {"n_predict": 200, "temperature": 0.7, "top_p": 0.95, "top_k": 0},
            id="defaults",
        ),
        pytest.param(Prompt("x", seed=0), {"seed": 0, "cache_prompt": False}, id="seed 0"),
        pytest.param(
            Prompt("x", temperature=0), {"temperature": 0, "cache_prompt": False}, id="greedy"
        ),
        pytest.param(
            Prompt("x", 7, 1.5, 1.0, 9, 1.2, None, ("a", "b")),
            {
                "n_predict": 7,
                "temperature": 1.5,
                "top_p": 1.0,
                "top_k": 9,
                "repeat_penalty": 1.2,
                "cache_prompt": True,
            },
            id="everything",
        ),
    ],
)
async def test_the_request_names_every_sampler(
    engine: Llamacpp, prompt: Prompt, fields: dict[str, Any]
) -> None:
    async with serving(stream(last())) as server:
        async for _ in engine.generate(server.instance, spec(), prompt):
            pass

    [(path, request)] = server.requests
    always = {"prompt": "x", "stream": True, "min_p": 0.0}
    assert path == "/completion"
    assert request | always | fields == request
    assert ("seed" in request) == (prompt.seed is not None)
    assert "stop" not in request


@pytest.mark.parametrize(
    ("line", "progress"),
    [
        pytest.param(
            {"event": "downloading", "file": "m.gguf", "completed_bytes": 5, "total_bytes": 20},
            Progress(Phase.DOWNLOADING_WEIGHTS, 5, 20, "bytes", 0.25, "downloading m.gguf"),
            id="a download",
        ),
        pytest.param(
            {"event": "downloading", "file": "m.gguf", "completed_bytes": 5, "total_bytes": 0},
            Progress(Phase.DOWNLOADING_WEIGHTS, 5, 0, "bytes", None, "downloading m.gguf"),
            id="a download of unknown size",
        ),
        pytest.param(
            {"event": "downloading", "file": "m.gguf", "completed_bytes": 21, "total_bytes": 20},
            Progress(Phase.DOWNLOADING_WEIGHTS, 21, 20, "bytes", 1.0, "downloading m.gguf"),
            id="a download of more than its total",
        ),
        pytest.param(
            {"event": "asking", "file": "m.gguf", "repo": "a/b"},
            Progress(Phase.DOWNLOADING_WEIGHTS, message="asking the hub for m.gguf"),
            id="a question to the hub",
        ),
        pytest.param({"event": "loading", "file": "m"}, Progress(Phase.LOADING_WEIGHTS), id="load"),
        pytest.param({"event": "serving", "host": "h", "port": 1}, None, id="serving"),
        pytest.param({"event": "downloading"}, None, id="an event without its facts"),
        pytest.param({}, None, id="an empty object"),
    ],
)
def test_a_line_of_the_worker_is_progress(line: dict[str, Any], progress: Progress | None) -> None:
    assert worker_log.progress(json.dumps(line)) == progress


@pytest.mark.parametrize("line", ["", "{", "llama_model_load: loading", "[]", '"loading"'])
def test_a_line_of_llamacpp_itself_is_no_progress(line: str) -> None:
    assert worker_log.progress(line) is None


def test_the_check_of_a_file_is_part_of_its_download() -> None:
    progress = worker_log.progress('{"event":"verifying","file":"m"}')

    assert progress is not None
    assert progress.phase is Phase.DOWNLOADING_WEIGHTS


def test_a_download_that_failed_before_its_first_byte_was_one() -> None:
    log = '{"event":"failed","reason":"GATED","message":"No.","phase":"downloading"}'
    found = worker_log.progress(log)

    assert found is not None
    assert found.phase is Phase.DOWNLOADING_WEIGHTS
    assert worker_log.progress(failed("PORT_UNUSABLE")) is None


LOADING = '{"event":"loading","file":"/m.gguf"}'


def failed(reason: str) -> str:
    return f'{{"event":"failed","reason":"{reason}","message":"It is so."}}'


@pytest.mark.parametrize(
    ("log", "lasts"),
    [
        ([failed("GATED")], True),
        ([failed("REPO_NOT_FOUND")], True),
        ([failed("FILE_NOT_FOUND")], True),
        ([failed("WRONG_FILE")], True),
        ([failed("CONFIGURATION")], True),
        (["0.00.01 E llama_model_load: error loading model: x", failed("MODEL_UNUSABLE")], True),
        ([failed("MODEL_UNUSABLE"), "an allocation is no error of llama.cpp"], True),
        (
            [
                "0.00.01 E ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer",
                failed("MODEL_UNUSABLE"),
            ],
            False,
        ),
        (["src/llama.cpp:1: GGML_ASSERT(hparams.n_layer > 0) failed"], True),
        (["ggml/src/ggml.c:1: GGML_ASSERT(ctx->mem_buffer != NULL) failed"], False),
        (["GGML_ASSERT(x) failed", failed("PORT_UNUSABLE")], False),
        ([failed("HUB_UNREACHABLE")], False),
        ([failed("DISK_FULL")], False),
        ([failed("CHECKSUM_MISMATCH")], False),
        ([failed("PORT_UNUSABLE")], False),
        (["Killed"], False),
        ([], False),
    ],
)
def test_a_failure_that_no_retry_mends(log: list[str], lasts: bool) -> None:
    assert Llamacpp("").is_lasting(log) is lasts


FAILED = '{"event":"failed","reason":"MODEL_UNUSABLE","message":"The file is damaged."}'
GATED = '{"event":"failed","reason":"GATED","message":"a/b is gated."}'
# As llama.cpp wrote them for a file that was cut off, and for a chat template with a mistake.
CUT = [
    "0.00.010.621 E llama_model_load: error loading model: tensor 'x' is not within the file",
    "0.00.010.653 E cmn  common_init_: failed to load model '/m.gguf'",
    "0.00.013.025 E srv          init: exiting due to model loading error",
]
TEMPLATE = [
    "0.00.042.393 E common_chat_templates_init: error: Unexpected token: %} of type 9",
    "0.00.042.436 E srv          init: init: chat template parsing error: std::exception",
]
UNLOADED = "llama.cpp could not load /m.gguf: "
SHORT = f"{UNLOADED}error loading model: tensor 'x' is not within the file."


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        pytest.param([FAILED, "some", "noise"], "The file is damaged.", id="the worker's message"),
        pytest.param([LOADING, *CUT, FAILED], SHORT, id="the first error of llama.cpp"),
        pytest.param([LOADING, FAILED, *CUT], SHORT, id="standard error last"),
        pytest.param([*CUT, LOADING, FAILED], SHORT, id="standard error first"),
        pytest.param(["a warning", LOADING, *CUT, FAILED], SHORT, id="a warning of Python"),
        pytest.param(
            [LOADING, *TEMPLATE, FAILED],
            f"{UNLOADED}error: Unexpected token: %}} of type 9.",
            id="a chat template",
        ),
        pytest.param(
            [*CUT, FAILED],
            SHORT.replace("/m.gguf", "the model"),
            id="a log that has lost its beginning",
        ),
        pytest.param([*CUT, GATED], "a/b is gated.", id="another reason"),
        pytest.param([LOADING, *CUT], CUT[-1], id="no failure of the worker"),
        pytest.param(
            ["GGML_ASSERT(n > 0) failed", LOADING, "  ", ""],
            "GGML_ASSERT(n > 0) failed",
            id="an abort",
        ),
        pytest.param(["slow", "out of memory", LOADING], "out of memory", id="the last line"),
        pytest.param(
            [LOADING, "0.00.042.436 I srv  update_slots: all slots are idle"],
            "",
            id="killed from outside: a report is no cause",
        ),
        pytest.param(['{"event":"failed"}'], "", id="an event without its facts"),
        pytest.param([], "", id="nothing"),
    ],
)
def test_the_cause_is_the_message_of_the_worker_or_an_error_of_llamacpp(
    engine: Llamacpp, log: list[str], cause: str
) -> None:
    assert engine.cause(log) == cause


@pytest.mark.parametrize(
    ("weights", "needs", "env"),
    [
        pytest.param(
            GgufWeights(repo="a/b", file="c.gguf", revision="r", sha256="0" * 64),
            {"slots": 2, "threads": 3},
            {
                "LLAMACPP_REPO": "a/b",
                "LLAMACPP_FILE": "c.gguf",
                "LLAMACPP_REVISION": "r",
                "LLAMACPP_SHA256": "0" * 64,
                "LLAMACPP_SLOTS": "2",
                "LLAMACPP_THREADS": "3",
            },
            id="in a repository",
        ),
        pytest.param(
            GgufWeights(path=Path("/models/m.gguf")),
            {"slots": 9, "env": {"OMP_WAIT_POLICY": "passive"}},
            {
                "OMP_WAIT_POLICY": "passive",
                "LLAMACPP_SLOTS": "9",
                "LLAMACPP_FILE": "/model/m.gguf",
            },
            id="on this machine, with an environment",
        ),
    ],
)
def test_the_command_follows_the_entry(
    engine: Llamacpp, weights: GgufWeights, needs: dict[str, Any], env: dict[str, str]
) -> None:
    command = engine.command(spec(weights, **needs), Seat("0.0.0.0", 80, in_container=True))

    address = {"LLAMACPP_HOST": "0.0.0.0", "LLAMACPP_PORT": "80"}
    assert command.env == {"LLAMACPP_NAME": "tiny", "LLAMACPP_CONTEXT": "128"} | address | env
    path = weights.path
    assert command.mounts == ((Mount(path, "/model/m.gguf"),) if path else ())
    assert (command.needs.memory_bytes, command.needs.gpu) == (10**9, None)
    assert (command.model, command.image, command.program) == ("tiny", "llamacpp:0", ())


def test_a_process_sees_the_file_where_it_is_and_ends_with_the_service(engine: Llamacpp) -> None:
    command = engine.command(spec(GgufWeights(path=Path("/m.gguf"))), Seat(port=8080))

    words = ("-X", "utf8", "-P", "-m", "inference_service.worker")
    assert (command.image, command.program[1:]) == ("", words)
    assert command.env["LLAMACPP_FILE"] == "/m.gguf"
    assert command.env["LLAMACPP_EXIT_WITH_PARENT"] == "1"
    assert command.env["LLAMACPP_PORT"] == "8080"


@pytest.mark.parametrize(
    ("line", "longest"),
    [
        ('{"event": "serving", "host": "h", "port": 1, "longest_token": 14}', 14),
        ('{"event": "serving", "host": "h", "port": 1, "longest_token": 0}', 0),
        ('{"event": "serving", "host": "h", "port": 1}', None),  # an image of an earlier version
        ('{"event": "serving", "longest_token": -1}', None),
        ('{"event": "serving", "longest_token": "14"}', None),
        ("{" + '"a":[' * 9999, None),
        ("serving", None),
    ],
)
def test_the_longest_token_is_that_of_the_serving_event(line: str, longest: int | None) -> None:
    facts = Llamacpp("").facts(["{}", line, "x"])
    assert (facts and facts.longest_token) == longest


@pytest.mark.parametrize(
    ("line", "tokens", "template"),
    [
        ('{"event": "serving", "control_tokens": ["<s>"], "chat_template": true}', ["<s>"], True),
        ('{"event": "serving", "control_tokens": [], "chat_template": false}', [], False),
        ('{"event": "serving", "control_tokens": null, "chat_template": null}', None, None),
        ('{"event": "serving", "control_tokens": "<s>"}', None, None),
        ('{"event": "loading", "control_tokens": ["<s>"], "chat_template": true}', None, None),
    ],
)
def test_what_the_file_says_is_in_the_serving_event(
    line: str, tokens: list[str] | None, template: bool | None
) -> None:
    facts = Llamacpp("").facts(["{}", line, "x"])
    assert (facts and facts.control_tokens) == (None if tokens is None else tuple(tokens))
    assert (facts and facts.has_chat_template) == template


@pytest.mark.parametrize(
    ("said", "takes"),
    [("true", True), ("false", False), ("null", None), ('"no"', None)],
)
def test_the_serving_event_tells_whether_tools_are_taken(said: str, takes: bool | None) -> None:
    line = f'{{"event": "serving", "takes_tools": {said}}}'
    facts = Llamacpp("").facts([line])
    assert facts is not None
    assert facts.takes_tools is takes


def test_a_later_line_that_looks_like_a_serving_event_changes_nothing() -> None:
    """A caller's words can be in the log, in an error of llama.cpp."""
    first = '{"event": "serving", "control_tokens": ["<s>"], "chat_template": false}'
    log = [first, '{"event": "serving", "control_tokens": [], "chat_template": true}']
    assert Llamacpp("").facts(log) == Facts(None, ("<s>",), False)


def test_what_a_model_serves_is_what_it_answers() -> None:
    engine, seat = Llamacpp(""), Seat("127.0.0.1", 1)
    text = engine.paths(spec())
    assert "/v1/chat/completions" in text
    assert "/v1/embeddings" not in text
    vectors, ranks = spec(serves="embeddings", pooling="mean"), spec(serves="rerank")
    assert engine.paths(vectors) == ("/v1/models", "/v1/embeddings", "/tokenize", "/detokenize")
    assert engine.paths(ranks) == ("/v1/models", "/v1/rerank", "/tokenize", "/detokenize")
    env = engine.command(vectors, seat).env
    assert (env["LLAMACPP_SERVES"], env["LLAMACPP_POOLING"]) == ("embeddings", "mean")
    assert "LLAMACPP_SERVES" not in engine.command(spec(), seat).env
    chatml = engine.command(spec(chat_template="chatml"), seat).env
    assert chatml["LLAMACPP_CHAT_TEMPLATE"] == "chatml"
