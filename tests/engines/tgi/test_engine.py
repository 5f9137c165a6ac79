"""The engine `tgi`, with answers that a real TGI seldom gives."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from inference_service.capacity.claims import USUAL_COUNTS, GpuNeed, GpuShare
from inference_service.catalog import ModelSpec
from inference_service.engines.base import Chunk, Finish, FinishReason, Prompt
from inference_service.engines.tgi.engine import Tgi
from inference_service.engines.tgi.section import HubWeights, TgiNeeds
from inference_service.errors import (
    EngineFailed,
    EngineLost,
    EngineOverloaded,
    InvalidParameter,
    PromptTooLong,
    ServiceError,
)
from tests.engines.beds import GPU_SEAT as GPU
from tests.engines.beds import SEAT as CPU
from tests.engines.scripted import Answer, event, plain, serving, stream

PROMPT = Prompt("Once upon a time", max_new_tokens=5)


@pytest.fixture
async def engine() -> AsyncIterator[Tgi]:
    engine = Tgi("tgi:3.3.7")
    yield engine
    await engine.aclose()


@pytest.fixture
async def at_once(engine: Tgi, monkeypatch: pytest.MonkeyPatch) -> Tgi:
    """An engine that gives each read at once."""
    monkeypatch.setattr("inference_service.engines.answer.GATHER", 0)
    return engine


def spec(**needs: Any) -> ModelSpec:
    tgi = TgiNeeds(memory="1GB", weights=HubWeights(repo="a/tiny"), **needs)  # type: ignore[arg-type]
    return ModelSpec(id="tiny", hf_name="a/tiny", context_length=128, sections={"tgi": tgi})


def token(text: str, *, special: bool = False) -> bytes:
    """Make an event in the middle of a text."""
    return event({"index": 1, "token": _token(text, special), "details": None})


def last(text: str, reason: str = "length", *, count: int = 3, special: bool = False) -> bytes:
    """Make the event of the last token."""
    details = {"finish_reason": reason, "generated_tokens": count, "seed": 7, "input_length": 4}
    data = {"token": _token(text, special), "generated_text": "whatever", "details": details}
    return event(data | {"index": count})


def _token(text: str, special: bool) -> dict[str, Any]:
    return {"id": 9, "text": text, "logprob": -0.5, "special": special}


def error(message: str, kind: str) -> bytes:
    return event({"error": message, "error_type": kind})


async def generate(engine: Tgi, prompt: Prompt, *answers: Answer) -> list[Chunk]:
    async with serving(*answers) as server:
        return [chunk async for chunk in engine.generate(server.instance, spec(), prompt)]


def text(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def ended(reason: FinishReason, count: int = 3) -> Finish:
    return Finish(reason, 4, count)


async def test_each_read_is_a_chunk_and_the_last_has_the_finish(at_once: Tgi) -> None:
    answer = stream(token(" a") + token(" b"), b":\n\n", last(" c"))

    assert await generate(at_once, PROMPT, answer) == [
        Chunk(" a b", 2),
        Chunk(" c", 1, ended(FinishReason.LENGTH)),
    ]


async def test_all_that_comes_in_one_read_is_one_chunk(engine: Tgi) -> None:
    answer = stream(b"".join([token(f" {n}") for n in range(200)]) + last(" z", count=201))

    chunks = await generate(engine, Prompt("once", max_new_tokens=201), answer)

    assert len(chunks) == 1
    assert chunks[0].token_count == 201
    assert chunks[0].finish == ended(FinishReason.LENGTH, 201)


def whole(*tokens: str, reason: str = "length", header: str = "X-Prompt-Tokens: 4") -> Answer:
    """Make an answer of `/generate`."""
    details = {"finish_reason": reason, "generated_tokens": len(tokens), "seed": 7, "prefill": []}
    listed = [_token(text, text.startswith("<")) for text in tokens]
    data = {"generated_text": "whatever", "details": details | {"tokens": listed}}
    return plain(200, event(data)[6:], header=header)


async def fetch(engine: Tgi, prompt: Prompt, *answers: Answer) -> tuple[list[Chunk], list[str]]:
    """Return the chunks of a whole text, and the paths of its requests."""
    async with serving(*answers) as server:
        chunks = engine.generate(server.instance, spec(), prompt, whole=True)
        return [chunk async for chunk in chunks], [path for path, _ in server.requests]


async def test_a_whole_text_is_one_answer(engine: Tgi) -> None:
    answer = whole("<s>", " a", " b", "</s>", reason="eos_token")

    chunks, paths = await fetch(engine, PROMPT, answer)

    assert chunks == [Chunk(" a b", 4, ended(FinishReason.STOP, 4))]
    assert paths == ["/generate"]


async def test_a_whole_text_whose_prompt_tgi_has_not_counted_is_counted(engine: Tgi) -> None:
    chunks, paths = await fetch(engine, PROMPT, whole(" a", header="x: y"), plain(200, b"[{},{}]"))

    assert chunks[-1].finish == Finish(FinishReason.LENGTH, 2, 1)
    assert paths == ["/generate", "/tokenize"]


async def test_a_whole_text_that_may_stop_within_a_token_is_streamed(engine: Tgi) -> None:
    prompt = dataclasses.replace(PROMPT, stop=(".",))

    _, paths = await fetch(engine, prompt, stream(token(" a"), last(" b")))

    assert paths == ["/generate_stream"]


async def test_a_character_may_be_split_between_reads(at_once: Tgi) -> None:
    data = token(" žluť") + last(" 🙂")
    answer = stream(*(data[at : at + 1] for at in range(len(data))))

    assert text(await generate(at_once, PROMPT, answer)) == " žluť 🙂"


async def test_special_tokens_count_but_are_no_text(engine: Tgi) -> None:
    answer = stream(
        token("<s>", special=True) + token(" a"), last("</s>", "eos_token", special=True)
    )

    assert await generate(engine, PROMPT, answer) == [
        Chunk(" a", 2),
        Chunk("", 1, ended(FinishReason.STOP)),
    ]


async def test_tokens_without_text_are_counted_in_the_next_chunk(at_once: Tgi) -> None:
    answer = stream(token(""), token(""), token("語"), last(" b", count=4))

    chunks = await generate(at_once, PROMPT, answer)

    assert [(chunk.text, chunk.token_count) for chunk in chunks] == [("語", 3), (" b", 1)]


@pytest.mark.parametrize(
    ("finish_reason", "reason"),
    [
        ("eos_token", FinishReason.STOP),
        ("length", FinishReason.LENGTH),
        ("stop_sequence", FinishReason.STOP_SEQUENCE),
    ],
)
async def test_the_finish_has_the_reason_of_tgi(
    engine: Tgi, finish_reason: str, reason: FinishReason
) -> None:
    chunks = await generate(engine, PROMPT, stream(last(" a", finish_reason)))

    assert chunks[-1].finish == ended(reason)


async def test_the_text_ends_before_a_stop_sequence_that_tgi_sends_along(engine: Tgi) -> None:
    prompt = dataclasses.replace(PROMPT, stop=("END",))
    answer = stream(token(" a E"), token("N"), last("D", "stop_sequence"))

    chunks = await generate(engine, prompt, answer)

    assert text(chunks) == " a "
    assert chunks[-1].finish == ended(FinishReason.STOP_SEQUENCE)


async def test_a_stop_sequence_in_the_last_token_is_no_matter_of_length(engine: Tgi) -> None:
    prompt = dataclasses.replace(PROMPT, stop=("END",))

    chunks = await generate(engine, prompt, stream(token(" a"), last("END", "length")))

    assert chunks[-1].finish == ended(FinishReason.STOP_SEQUENCE)


async def test_text_held_back_for_a_stop_sequence_comes_at_the_end(engine: Tgi) -> None:
    prompt = dataclasses.replace(PROMPT, stop=("END",))

    assert text(await generate(engine, prompt, stream(token(" a"), last(" EN")))) == " a EN"


@pytest.mark.parametrize("together", [True, False])
async def test_a_stop_sequence_within_a_token_ends_the_text_though_tgi_goes_on(
    engine: Tgi, together: bool
) -> None:
    """TGI looks for a sequence only at the end of its text, and `."` does not end with `.`."""
    prompt = dataclasses.replace(PROMPT, stop=(".",))
    tokens = [token(" a"), token("", special=True), token('."'), token(" b"), token(" c")]
    async with serving(
        stream(*([b"".join(tokens)] if together else tokens), end="hold"),
        plain(200, b'[{"id":1},{"id":2},{"id":3},{"id":4}]'),
    ) as server:
        async with aclosing(engine.generate(server.instance, spec(), prompt)) as chunks:
            got = [chunk async for chunk in chunks]
        await server.until_left()

    assert text(got) == " a"
    assert got[-1].finish == ended(FinishReason.STOP_SEQUENCE, 3)
    assert sum(chunk.token_count for chunk in got) == 3


async def test_tokens_beyond_the_limit_are_cut_off_and_the_prompt_is_counted(engine: Tgi) -> None:
    async with serving(
        stream(token(" a") + token(" b"), token(" c") + token(" d") + token(" e"), end="hold"),
        plain(200, b'[{"id":1,"text":"Once"},{"id":2,"text":" upon"}]'),
    ) as server:
        prompt = Prompt("Once upon", max_new_tokens=4)
        chunks = [chunk async for chunk in engine.generate(server.instance, spec(), prompt)]
        await server.until_left()

    assert chunks == [Chunk(" a b", 2), Chunk(" c d", 2, Finish(FinishReason.LENGTH, 2, 4))]
    assert [path for path, _ in server.requests] == ["/generate_stream", "/tokenize"]
    assert server.requests[1][1] == {"inputs": "Once upon"}


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(plain(500, b"oops", content_type="text/plain"), id="plain text"),
        pytest.param(plain(429, b'{"error":"x","error_type":"overloaded"}'), id="an error of TGI"),
        pytest.param(plain(200, b"[{"), id="not JSON"),
    ],
)
async def test_a_prompt_that_cannot_be_counted_is_a_failure(engine: Tgi, answer: Answer) -> None:
    with pytest.raises(EngineFailed, match="count"):
        await generate(engine, Prompt("once", max_new_tokens=1), stream(token(" a")), answer)


@pytest.mark.parametrize("stop", [(), (" b",)], ids=["no stop", "held back"])
async def test_the_limit_gives_the_text_that_was_held_back(
    engine: Tgi, stop: tuple[str, ...]
) -> None:
    prompt = Prompt("once", max_new_tokens=1, stop=stop)

    chunks = await generate(engine, prompt, stream(token(" ")), plain(200, b"[{}]"))

    assert chunks == [Chunk(" ", 1, Finish(FinishReason.LENGTH, 1, 1))]


NO_ROOM = (
    "Input validation error: `inputs` tokens + `max_new_tokens` must be <= {}. "
    "Given: {} `inputs` tokens and 5 `max_new_tokens`"
)


@pytest.mark.parametrize("in_stream", [True, False])
async def test_a_context_with_less_room_gets_fewer_tokens(engine: Tgi, in_stream: bool) -> None:
    message = NO_ROOM.format(128, 125)
    refusal = plain(422, event({"error": message, "error_type": "validation"})[6:])
    async with serving(
        stream(error(message, "validation")) if in_stream else refusal,
        stream(token(" a"), last(" b")),
    ) as server:
        chunks = [chunk async for chunk in engine.generate(server.instance, spec(), PROMPT)]

    assert text(chunks) == " a b"
    assert [r["parameters"]["max_new_tokens"] for _, r in server.requests] == [5, 3]


TOO_LONG = "Input validation error: `inputs` must have less than 127 tokens. Given: 500"


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (stream(error(NO_ROOM.format(128, 128), "validation")), PromptTooLong, "128 `inputs`"),
        (stream(error(NO_ROOM.format(128, 300), "validation")), PromptTooLong, "300 `inputs`"),
        (stream(error(TOO_LONG, "validation")), PromptTooLong, "Given: 500"),
        (plain(413, b"length limit", content_type="text/plain"), PromptTooLong, "shorten it"),
        (stream(error("`seed` is odd", "validation")), InvalidParameter, "`seed` is odd"),
        (stream(error("Model is overloaded", "overloaded")), EngineOverloaded, "tiny is overload"),
        (plain(429, error("Busy", "overloaded")[6:]), EngineOverloaded, "retry in a second"),
        (stream(token(" a"), error("CUDA error", "generation")), EngineFailed, "CUDA error"),
        (plain(424, error("CUDA error", "generation")[6:]), EngineFailed, "CUDA error"),
        (stream(error("Dropped", "incomplete_generation_stream")), EngineFailed, "Dropped"),
        (stream(event({"error": "No kind"})), EngineFailed, "No kind"),
        (stream(error("First", "overloaded") + error("2nd", "x")), EngineOverloaded, "overloaded"),
        (
            plain(422, b"missing field `inputs`", content_type="text/plain"),
            EngineFailed,
            "HTTP 422",
        ),
        (plain(502, b"", content_type="text/plain"), EngineFailed, r"HTTP 502: \(empty\)"),
        (
            plain(503, b'{"error":"unhealthy","error_type":"healthcheck"}'),
            EngineFailed,
            "unhealthy",
        ),
        (plain(200, b"hello", content_type="text/plain"), EngineFailed, "HTTP 200: hello"),
        (plain(200, b'{"generated_text":"x"}'), EngineFailed, "HTTP 200"),
        (stream(b"data: {nonsense\n\n"), EngineFailed, "not its own"),
        (stream(b"data: [DONE]\n\n"), EngineFailed, "not its own"),
        (stream(b'data: {"token": "x"}\n\n'), EngineFailed, "not its own"),
        (stream(b'data: {"error": {"message": "x"}}\n\n'), EngineFailed, "not its own"),
        (stream(b'data: {"token":{"text":"\xff"}}\n\n'), EngineFailed, "not its own"),
        (stream(), EngineFailed, "before the text was finished"),
        (stream(token(" a")), EngineFailed, "before the text was finished"),
        (
            stream(event({"token": None, "generated_text": "x", "details": None})),
            EngineFailed,
            "bef",
        ),
        (stream(token(" a"), end="cut"), EngineFailed, "broke the connection"),
    ],
)
async def test_any_other_answer_is_an_error_that_quotes_it(
    engine: Tgi, answer: Answer, kind: type[ServiceError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        await generate(engine, PROMPT, answer)


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (plain(422, error(TOO_LONG, "validation")[6:]), PromptTooLong, "Given: 500"),
        (plain(429, error("Busy", "overloaded")[6:]), EngineOverloaded, "retry in a second"),
        (plain(424, error("CUDA error", "generation")[6:]), EngineFailed, "CUDA error"),
        (plain(424, error("transport error", "generation")[6:]), EngineLost, "transport"),
        (plain(200, b"hello", content_type="text/plain"), EngineFailed, "HTTP 200: hello"),
        (plain(200, b'{"generated_text":"x"}'), EngineFailed, "not its own.*details"),
        (plain(200, b'{"generated_text":'), EngineFailed, "not its own"),
        (plain(200, b'{"details":{"finish_reason":"\xff"}}'), EngineFailed, "not its own"),
        (whole(" a", header="X-Prompt-Tokens: four"), EngineFailed, "not its own"),
    ],
)
async def test_any_other_answer_than_a_whole_text_is_an_error_that_quotes_it(
    engine: Tgi, answer: Answer, kind: type[ServiceError], message: str
) -> None:
    with pytest.raises(ServiceError, match=message) as caught:
        await fetch(engine, PROMPT, answer)

    assert type(caught.value) is kind


async def test_a_context_with_less_room_gets_a_whole_text_of_fewer_tokens(engine: Tgi) -> None:
    refusal = plain(422, error(NO_ROOM.format(128, 125), "validation")[6:])

    chunks, paths = await fetch(engine, PROMPT, refusal, whole(" a", " b", " c"))

    assert chunks == [Chunk(" a b c", 3, ended(FinishReason.LENGTH, 3))]
    assert paths == ["/generate", "/generate"]


async def test_errors_have_the_facts_that_callers_need(engine: Tgi) -> None:
    with pytest.raises(EngineOverloaded) as overloaded:
        await generate(engine, PROMPT, stream(error("Model is overloaded", "overloaded")))
    with pytest.raises(PromptTooLong) as too_long:
        await generate(engine, PROMPT, stream(error(TOO_LONG, "validation")))

    assert overloaded.value.retry_after == 1
    assert too_long.value.field == "prompt"
    assert too_long.value.metadata == {"context_length": "128"}


async def test_closing_a_text_ends_its_request(engine: Tgi) -> None:
    async with serving(stream(token(" a"), end="hold")) as server:
        async with aclosing(engine.generate(server.instance, spec(), PROMPT)) as chunks:
            await anext(chunks)
        await server.until_left()


@pytest.mark.parametrize(
    ("prompt", "parameters"),
    [
        pytest.param(
            Prompt("x"), {"do_sample": True, "temperature": 0.7, "top_p": 0.95}, id="defaults"
        ),
        pytest.param(
            Prompt("x", temperature=0, top_p=0.5, top_k=3, seed=1),
            {"do_sample": False},
            id="temperature 0 is greedy, and nothing else is sent",
        ),
        pytest.param(
            Prompt("x", temperature=1.5, top_p=1.0),
            {"do_sample": True, "temperature": 1.5},
            id="top_p 1 is left out",
        ),
        pytest.param(
            Prompt("x", top_k=9, seed=0, repetition_penalty=1.2, stop=("a", "b")),
            {
                "do_sample": True,
                "temperature": 0.7,
                "top_p": 0.95,
                "top_k": 9,
                "seed": 0,
                "repetition_penalty": 1.2,
                "stop": ["a", "b"],
            },
            id="everything, and seed 0 is a seed",
        ),
        pytest.param(
            Prompt("x", temperature=0, repetition_penalty=1.2),
            {"do_sample": False, "repetition_penalty": 1.2},
            id="a penalty is for greedy too",
        ),
    ],
)
async def test_the_request_has_only_what_tgi_accepts(
    engine: Tgi, prompt: Prompt, parameters: dict[str, Any]
) -> None:
    async with serving(stream(last(" a"))) as server:
        async for _ in engine.generate(server.instance, spec(), prompt):
            pass

    always = {"max_new_tokens": 200, "details": True, "return_full_text": False, "stop": []}
    assert server.requests == [
        ("/generate_stream", {"inputs": "x", "parameters": always | parameters})
    ]


@pytest.mark.parametrize(("status", "ready"), [(200, True), (503, False)])
async def test_the_engine_is_ready_when_its_health_is_200(
    engine: Tgi, status: int, ready: bool
) -> None:
    async with serving(plain(status)) as server:
        assert await engine.ready(server.instance) is ready

    assert server.requests == [("/health", None)]


def test_the_command_follows_the_entry(engine: Tgi) -> None:
    plain = engine.command(spec(), CPU)
    own = engine.command(
        spec(image="mine", gpus="all", env={"MODEL_ID": "/data/x", "NUM_SHARD": "1"}), CPU
    )

    assert (plain.model, plain.image) == ("tiny", "tgi:3.3.7")
    assert (plain.program, plain.needs.memory_bytes) == ((), 10**9)
    assert (plain.env["HOSTNAME"], plain.env["PORT"]) == ("0.0.0.0", "80")
    assert plain.env["MODEL_ID"] == "a/tiny"
    assert plain.env["REVISION"] == "main"
    assert plain.stop_grace > 2 * int(plain.env["GRACEFUL_TERMINATION_TIMEOUT"])
    assert (own.image, own.needs.gpu, own.env["NUM_SHARD"]) == ("mine", GpuNeed(None, 1), "1")
    assert own.env["MODEL_ID"] == "/data/x"


def test_the_token_of_the_hub_is_a_secret(engine: Tgi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_ours")
    assert engine.command(spec(), CPU).hub == {"HF_TOKEN": "hf_ours"}
    assert engine.command(spec(), CPU).secrets == {}
    own = engine.command(spec(env={"HF_TOKEN": "hf_own"}), CPU.taken(80, None, "key"))
    assert own.secrets == {"HF_TOKEN": "hf_own", "API_KEY": "key"}
    assert own.hub == {}
    assert own.headers == {"authorization": "Bearer key"}
    assert not {"HF_TOKEN", "API_KEY"} & own.env.keys()


def test_each_run_has_a_key(engine: Tgi) -> None:
    command = engine.command(spec(), CPU.taken(80, None, "k" * 32))
    assert command.secrets["API_KEY"] == "k" * 32
    assert command.headers == {"authorization": "Bearer " + "k" * 32}
    assert "k" * 32 in command.hidden
    assert engine.command(spec(), CPU).headers == {}


@pytest.mark.parametrize(
    ("gpus", "has_gpu", "given"),
    [
        ("auto", True, True),
        ("auto", False, False),
        ("all", True, True),
        ("all", False, True),
        ("none", True, False),
    ],
)
def test_the_engine_gets_gpus_where_the_entry_and_the_seat_have_them(
    engine: Tgi, gpus: str, has_gpu: bool, given: bool
) -> None:
    command = engine.command(spec(gpus=gpus), dataclasses.replace(CPU, has_gpu=has_gpu))

    assert (command.needs.gpu is not None) is given
    assert ("DISABLE_CUSTOM_KERNELS" in command.env) is not given


@pytest.mark.parametrize(
    ("own", "total", "most", "budget"),
    [
        pytest.param({}, "128", "127", None, id="the context of the entry"),
        pytest.param({"MAX_TOTAL_TOKENS": "64"}, "64", "63", None, id="a total alone"),
        pytest.param({"MAX_INPUT_TOKENS": "40"}, "128", "40", None, id="a prompt alone"),
        pytest.param({"MAX_INPUT_TOKENS": "200"}, "201", "200", None, id="a longer prompt"),
        pytest.param({"MAX_INPUT_LENGTH": "200"}, "201", None, None, id="by its old name"),
        pytest.param(
            {"MAX_TOTAL_TOKENS": "99", "MAX_INPUT_TOKENS": "9"}, "99", "9", None, id="both"
        ),
        pytest.param({"MAX_TOTAL_TOKENS": "many"}, "many", "127", None, id="no number"),
        pytest.param({"MAX_BATCH_PREFILL_TOKENS": "50"}, "128", "127", "50", id="a budget"),
        pytest.param({"ATTENTION": "flashdecoding"}, "128", "127", None, id="prompts in parts"),
        pytest.param({"ATTENTION": "paged"}, "128", "127", "128", id="an old GPU"),
        pytest.param({"PREFILL_CHUNKING": "0"}, "128", "127", "128", id="prompts whole"),
        pytest.param({"SPECULATE": "2"}, "128", "127", "128", id="tokens guessed"),
        pytest.param(
            {"ATTENTION": "paged", "MAX_BATCH_PREFILL_TOKENS": "500"}, "128", "127", "500"
        ),
    ],
)
def test_the_context_of_the_entry_is_that_of_tgi(
    engine: Tgi, own: dict[str, str], total: str, most: str | None, budget: str | None
) -> None:
    env = engine.command(spec(env=own), GPU).env

    assert env["MAX_TOTAL_TOKENS"] == total
    assert env.get("MAX_INPUT_TOKENS") == most
    assert env.get("MAX_BATCH_PREFILL_TOKENS") == budget


NO_FLASH = {"USE_FLASH_ATTENTION": "False"}


@pytest.mark.parametrize(("own", "budget"), [({}, "128"), ({"MAX_TOTAL_TOKENS": "64"}, "64")])
def test_without_a_gpu_tgi_works_on_one_whole_prompt_at_once(
    engine: Tgi, own: dict[str, str], budget: str
) -> None:
    on_cpu = engine.command(spec(env=own), CPU).env
    without_flash = engine.command(spec(env=own | NO_FLASH), GPU).env

    for env in (on_cpu, without_flash):
        assert (env["MAX_BATCH_SIZE"], env["MAX_BATCH_PREFILL_TOKENS"]) == ("1", budget)


@pytest.mark.parametrize(
    ("entry", "on_gpu", "on_cpu"),
    [
        ({}, 128, 1),
        ({"MAX_CONCURRENT_REQUESTS": "9"}, 9, 1),
        ({"MAX_BATCH_SIZE": "4"}, 128, 4),
        ({"MAX_BATCH_SIZE": "4", "MAX_CONCURRENT_REQUESTS": "2"}, 2, 2),
        (NO_FLASH, 1, 1),
    ],
)
def test_the_slots_are_the_requests_that_tgi_works_on_at_once(
    engine: Tgi, entry: dict[str, str], on_gpu: int, on_cpu: int
) -> None:
    assert engine.command(spec(env=entry), GPU).concurrency == on_gpu
    assert engine.command(spec(env=entry), CPU).concurrency == on_cpu


@pytest.mark.parametrize(
    ("entry", "need"),
    [
        ({}, GpuNeed(counts=USUAL_COUNTS)),
        ({"gpu_memory": "16GB"}, GpuNeed(16 * 10**9)),
        ({"gpu_counts": [3, 6]}, GpuNeed(counts=(3, 6))),
        ({"gpu_memory": "16GB", "gpu_counts": [3]}, GpuNeed(16 * 10**9, counts=(3,))),
        ({"env": {"NUM_SHARD": "3"}}, GpuNeed(count=3)),
        ({"gpu_memory": "1GB", "env": {"NUM_SHARD": "2"}}, GpuNeed(10**9, 2)),
        ({"env": {"NUM_SHARD": "0"}}, GpuNeed(counts=USUAL_COUNTS)),
        ({"env": {"NUM_SHARD": "few"}}, GpuNeed(counts=USUAL_COUNTS)),
    ],
)
def test_the_command_has_the_need_for_gpus(
    engine: Tgi, entry: dict[str, Any], need: GpuNeed
) -> None:
    assert engine.command(spec(**entry), dataclasses.replace(CPU, has_gpu=True)).needs.gpu == need


def test_the_share_of_the_gpus_is_rounded_down_and_the_entry_wins(engine: Tgi) -> None:
    seat = dataclasses.replace(CPU, has_gpu=True, gpus=GpuShare(("b", "a"), 0.59999))
    env = engine.command(spec(), seat).env
    assert (env["NUM_SHARD"], env["CUDA_MEMORY_FRACTION"]) == ("2", "0.599")

    own = engine.command(spec(env={"CUDA_MEMORY_FRACTION": "0.9"}), seat).env
    assert (own["NUM_SHARD"], own["CUDA_MEMORY_FRACTION"]) == ("2", "0.9")

    uncounted = dataclasses.replace(seat, gpus=None)
    assert "NUM_SHARD" not in engine.command(spec(), uncounted).env
    assert "NUM_SHARD" not in engine.command(spec(gpu_counts=[1, 2]), uncounted).env
    assert engine.command(spec(gpu_counts=[1]), uncounted).env["NUM_SHARD"] == "1"
