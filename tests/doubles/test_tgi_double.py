"""Facts of TGI that the double must show, over the real protocol and in real processes."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, closing
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import ClientError, ClientSession, ClientTimeout, ServerDisconnectedError

from .tgi import process
from .tgi.process import TgiProcess

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(30)]

PLAIN, JSON = "text/plain; charset=utf-8", "application/json"
VALIDATION = "Input validation error: "
Events = list[dict[str, Any]]


def on_cpu(
    environ: Mapping[str, str] | None = None, *, ready: bool = True
) -> AbstractAsyncContextManager[TgiProcess]:
    """Start the double on a machine without a GPU."""
    return process.started(environ, ready=ready)


def started(
    environ: Mapping[str, str] | None = None, *, ready: bool = True
) -> AbstractAsyncContextManager[TgiProcess]:
    """Start the double on a machine with a GPU."""
    return on_cpu({"NVIDIA_VISIBLE_DEVICES": "0", **(environ or {})}, ready=ready)


def context(total: int) -> dict[str, str]:
    """Return the variables for a context of so many tokens."""
    return {"MAX_TOTAL_TOKENS": str(total), "MAX_INPUT_TOKENS": str(total - 1)}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tgi() -> AsyncIterator[TgiProcess]:
    async with started({"MODEL_ID": "org/model"} | context(2048)) as tgi:
        yield tgi


@pytest_asyncio.fixture(loop_scope="module")
async def http() -> AsyncIterator[ClientSession]:
    async with ClientSession(timeout=ClientTimeout(total=20)) as session:
        yield session


def body(inputs: str, **parameters: Any) -> dict[str, Any]:
    return {"inputs": inputs, "parameters": {"max_new_tokens": 8} | parameters}


def events_of(raw: bytes, prefix: bytes = b"data: ") -> Events:
    frames = raw.split(b"\n\n")
    assert frames.pop() == b"", "the body ends in the middle of an event"
    assert all(frame.startswith(prefix) or frame == b":" for frame in frames)
    return [json.loads(frame.removeprefix(prefix)) for frame in frames if frame != b":"]


async def stream(http: ClientSession, tgi: TgiProcess, inputs: str, **parameters: Any) -> Events:
    async with http.post(f"{tgi.url}/generate_stream", json=body(inputs, **parameters)) as answer:
        assert answer.status == 200
        return events_of(await answer.read())


async def whole(http: ClientSession, tgi: TgiProcess, inputs: str, **parameters: Any) -> Any:
    async with http.post(f"{tgi.url}/generate", json=body(inputs, **parameters)) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


async def until(condition: Callable[[], Awaitable[object]], what: str) -> None:
    """Poll a condition, for 20 seconds at most."""
    end = time.monotonic() + 20
    while not await condition():
        assert time.monotonic() < end, f"{what}: not in 20 s"
        await asyncio.sleep(0.005)


async def gauge(http: ClientSession, tgi: TgiProcess, name: str) -> int:
    async with http.get(f"{tgi.url}/metrics") as answer:
        assert answer.headers["content-type"] == PLAIN
        lines = (await answer.text()).splitlines()
    return next((int(line.rpartition(" ")[2]) for line in lines if line.startswith(name)), 0)


async def runs(http: ClientSession, tgi: TgiProcess, count: int) -> None:
    """Wait until so many generations run."""

    async def found() -> bool:
        return await gauge(http, tgi, "tgi_batch_current_size") == count

    await until(found, f"{count} generations run")


async def refused(tgi: TgiProcess) -> None:
    """Wait until the port accepts no more connections."""

    async def found() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", tgi.port)
        except ConnectionError:  # refused, or reset as the port closed at that moment
            return True
        writer.close()
        await writer.wait_closed()
        return False

    await until(found, "the port is closed")


BOUNDS: list[tuple[dict[str, Any], str]] = [
    ({"temperature": 0}, "`temperature` must be strictly positive"),
    ({"temperature": 1e-60}, "`temperature` must be strictly positive"),
    ({"top_p": 1.0}, "`top_p` must be > 0.0 and < 1.0"),
    ({"top_p": 0.0}, "`top_p` must be > 0.0 and < 1.0"),
    ({"top_p": 0.9999999999}, "`top_p` must be > 0.0 and < 1.0"),
    ({"typical_p": 1}, "`typical_p` must be > 0.0 and < 1.0"),
    ({"top_k": 0}, "`top_k` must be strictly positive"),
    ({"top_k": -1}, "`top_k` must be strictly positive"),
    ({"repetition_penalty": 0}, "`repetition_penalty` must be strictly positive"),
    ({"frequency_penalty": 2.5}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
    ({"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive"),
    ({"stop": ["a"] * 5}, "`stop` supports up to 4 stop sequences. Given: 5"),
    ({"truncate": 0}, "`truncate` must be strictly positive and less than 2047. Given: 0"),
    ({"truncate": 2048}, "`truncate` must be strictly positive and less than 2047. Given: 2048"),
    ({"top_n_tokens": 6}, "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
    ({"grammar": {"type": "json", "value": {}}}, "Grammar must have a 'properties' field"),
]
WHOLE_ONLY: list[tuple[dict[str, Any], str]] = [
    ({"best_of": 3, "do_sample": True}, "`best_of` must be > 0 and <= 2. Given: 3"),
    ({"best_of": 2}, "you must use sampling when `best_of` is > 1"),
    ({"best_of": 2, "top_k": 5, "seed": 1}, "`seed` must not be set when `best_of` > 1"),
]


@pytest.mark.parametrize(("parameters", "message"), BOUNDS + WHOLE_ONLY)
async def test_bounds(
    tgi: TgiProcess, http: ClientSession, parameters: dict[str, Any], message: str
) -> None:
    async with http.post(f"{tgi.url}/generate", json=body("a", **parameters)) as answer:
        error = await answer.json()

    assert (answer.status, answer.headers["content-type"]) == (422, JSON)
    assert error["error"].startswith(VALIDATION)
    assert message in error["error"]
    assert error["error_type"] == "validation"


@pytest.mark.parametrize(("parameters", "message"), BOUNDS)
async def test_bounds_in_a_stream_are_one_event(
    tgi: TgiProcess, http: ClientSession, parameters: dict[str, Any], message: str
) -> None:
    (error,) = await stream(http, tgi, "a", **parameters)

    assert message in error["error"]
    assert error["error_type"] == "validation"


@pytest.mark.parametrize("parameters", [{"best_of": 2}, {"best_of": 0}])
async def test_best_of_in_a_stream_is_two_errors(
    tgi: TgiProcess, http: ClientSession, parameters: dict[str, Any]
) -> None:
    first, second = await stream(http, tgi, "a", **parameters)

    assert first["error"] == f"{VALIDATION}`best_of` != 1 is not supported when streaming tokens"
    assert (first["error_type"], second["error_type"]) == (
        "validation",
        "incomplete_generation_stream",
    )


async def test_prefill_details_in_a_stream_are_two_errors(
    tgi: TgiProcess, http: ClientSession
) -> None:
    first, second = await stream(http, tgi, "a", decoder_input_details=True)

    assert "`decoder_input_details` == true is not supported" in first["error"]
    assert second["error"] == "Incomplete generation stream"


@pytest.mark.parametrize(
    ("raw", "content_type", "status", "part"),
    [
        (b'{"inputs":"a","parameters":{"max_new_tokens":-1}}', JSON, 422, "expected u32"),
        (b'{"inputs":"a","parameters":{"max_new_tokens":1.5}}', JSON, 422, "floating point `1.5`"),
        (b'{"inputs":"a","parameters":{"seed":-1}}', JSON, 422, "expected u64"),
        (b'{"inputs":"a","parameters":{"stop":"x"}}', JSON, 422, "expected a sequence"),
        (b'{"inputs":"a","parameters":{"stop":null}}', JSON, 422, "invalid type: null"),
        (b'{"inputs":"a","parameters":{"do_sample":null}}', JSON, 422, "expected a boolean"),
        (b'{"inputs":"a","parameters":{"temperature":"1"}}', JSON, 422, "expected f32"),
        (b'{"inputs":"a","parameters":null}', JSON, 422, "struct GenerateParameters"),
        (b'{"inputs":["a"]}', JSON, 422, "inputs: invalid type: sequence, expected a string"),
        (b"{}", JSON, 422, "missing field `inputs`"),
        (b'{"inputs":', JSON, 400, "Failed to parse the request body as JSON"),
        (b"", JSON, 400, "EOF while parsing a value"),
        (b'{"inputs":"\xff"}', JSON, 400, "Failed to parse the request body as JSON"),
        (b'{"inputs":"\\ud800"}', JSON, 400, "Failed to parse the request body as JSON"),
        (b'{"inputs":"a","parameters":{"top_p":NaN}}', JSON, 400, "Failed to parse"),
        (b'{"inputs":"a"}', "text/plain", 415, "Expected request with `Content-Type: applicat"),
        (b'{"inputs":"' + b"a" * 2_000_000 + b'"}', JSON, 413, "length limit exceeded"),
    ],
    ids=lambda value: value[-24:].decode(errors="replace") if isinstance(value, bytes) else None,
)
@pytest.mark.parametrize("route", ["/generate", "/generate_stream"])
async def test_refusals_in_plain_text(
    tgi: TgiProcess,
    http: ClientSession,
    route: str,
    raw: bytes,
    content_type: str,
    status: int,
    part: str,
) -> None:
    headers = {"content-type": content_type}
    async with http.post(tgi.url + route, data=io.BytesIO(raw), headers=headers) as answer:
        text = await answer.text()

    assert (answer.status, answer.headers["content-type"]) == (status, PLAIN)
    assert part in text


async def test_routes(tgi: TgiProcess, http: ClientSession) -> None:
    found = {}
    for method, path in [
        *(("GET", path) for path in ("/health", "/generate", "/nope")),
        *(("POST", path) for path in ("/health", "/v1/embeddings")),
    ]:
        async with http.request(method, tgi.url + path) as answer:
            found[method, path] = (answer.status, await answer.read())

    assert found == {
        ("GET", "/health"): (200, b""),
        ("GET", "/generate"): (405, b""),
        ("GET", "/nope"): (404, b""),
        ("POST", "/health"): (405, b""),
        ("POST", "/v1/embeddings"): (404, b""),
    }


async def test_info(tgi: TgiProcess, http: ClientSession) -> None:
    async with http.get(f"{tgi.url}/info") as answer:
        info = await answer.json()

    assert info["model_id"] == "org/model"
    assert info["version"] == "3.3.6-dev0"
    assert (info["max_input_tokens"], info["max_total_tokens"]) == (2047, 2048)
    assert (info["max_concurrent_requests"], info["max_stop_sequences"]) == (128, 4)
    assert "max_batch_total_tokens" not in info


async def test_tokenize_counts_as_the_limits_do(tgi: TgiProcess, http: ClientSession) -> None:
    inputs = "Hello 🦙 world"
    async with http.post(f"{tgi.url}/tokenize", json={"inputs": inputs}) as answer:
        tokens = await answer.json()
    async with http.post(f"{tgi.url}/generate", json=body(inputs)) as answer:
        headers = answer.headers

    assert set(tokens[0]) == {"id", "text", "start", "stop"}
    assert [token["text"] for token in tokens][-5:] == ["🦙", "🦙", "🦙", "🦙", " world"]
    assert tokens[-1]["stop"] == len(inputs.encode())
    assert headers["x-prompt-tokens"] == str(len(tokens))
    assert headers["x-generated-tokens"] == "8"


async def test_framing_of_a_stream(tgi: TgiProcess, http: ClientSession) -> None:
    request = body("Once upon a time", details=True)
    async with http.post(f"{tgi.url}/generate_stream", json=request) as answer:
        raw = await answer.read()
    events = events_of(raw)

    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    assert b"[DONE]" not in raw
    assert [event["index"] for event in events] == list(range(1, 9))
    assert all(event["generated_text"] is None for event in events[:-1])
    assert all(event["details"] is None for event in events[:-1])
    assert set(events[0]["token"]) == {"id", "text", "logprob", "special"}
    assert events[-1]["generated_text"] == "".join(event["token"]["text"] for event in events)
    assert events[-1]["details"] == {
        "finish_reason": "length",
        "generated_tokens": 8,
        "seed": None,
        "input_length": 5,
    }


async def test_details_come_only_on_request(tgi: TgiProcess, http: ClientSession) -> None:
    assert set(await whole(http, tgi, "a")) == {"generated_text"}
    assert (await stream(http, tgi, "a"))[-1]["details"] is None
    details = (await whole(http, tgi, "a", decoder_input_details=True))["details"]
    assert details["prefill"] == []


async def test_no_parameters_at_all_means_sampling(tgi: TgiProcess, http: ClientSession) -> None:
    async def text(request: dict[str, Any]) -> str:
        async with http.post(f"{tgi.url}/generate", json=request) as answer:
            return str((await answer.json())["generated_text"])

    inputs = "Trap [[no_eos]]"

    assert await text({"inputs": inputs}) != await text({"inputs": inputs})
    assert await text({"inputs": inputs, "parameters": {}}) == await text(
        {"inputs": inputs, "parameters": {}, "unknown": 1}
    )


@pytest.mark.parametrize(
    ("parameters", "greedy"),
    [
        ({}, True),
        ({"temperature": 1.0}, True),
        ({"seed": 5}, True),
        ({"temperature": 0.7, "seed": 5}, False),
        ({"top_k": 3, "seed": 5}, False),
        ({"do_sample": True, "seed": 2**64 - 1}, False),
    ],
)
async def test_seed_is_null_when_greedy(
    tgi: TgiProcess, http: ClientSession, parameters: dict[str, Any], greedy: bool
) -> None:
    first = await whole(http, tgi, "Seed", details=True, **parameters)

    assert first["details"]["seed"] == (None if greedy else parameters["seed"])
    assert first == await whole(http, tgi, "Seed", details=True, **parameters)


async def test_a_seed_changes_the_text(tgi: TgiProcess, http: ClientSession) -> None:
    one = await whole(http, tgi, "Seed", do_sample=True, seed=1)
    two = await whole(http, tgi, "Seed", do_sample=True, seed=2)

    assert one != two


@pytest.mark.parametrize("parameters", [{"best_of": 2, "top_k": 5}, {"top_n_tokens": 2}])
async def test_parameters_that_the_double_lacks_are_refused(
    tgi: TgiProcess, http: ClientSession, parameters: dict[str, Any]
) -> None:
    """Real TGI takes them. The service never sends them, and a test must see it if it does."""
    async with http.post(f"{tgi.url}/generate", json=body("a", **parameters)) as answer:
        error = await answer.json()

    assert (answer.status, error["error_type"]) == (501, "not_imitated")


async def test_end_of_sequence_is_a_special_token(tgi: TgiProcess, http: ClientSession) -> None:
    events = await stream(http, tgi, "[[say:Hello world]]", details=True)

    assert events[-1]["token"] | {"logprob": 0} == {
        "id": 2,
        "text": "</s>",
        "logprob": 0,
        "special": True,
    }
    assert events[-1]["generated_text"] == "Hello world"
    assert events[-1]["details"]["finish_reason"] == "eos_token"


@pytest.mark.parametrize(
    ("inputs", "parameters", "text", "reason"),
    [
        ("[[say:one two three]]", {"stop": [" two"]}, "one two", "stop_sequence"),
        ("[[say:one two three]]", {"stop": [""]}, "one", "stop_sequence"),
        ("[[say:one two three]]", {"stop": ["e", "o"]}, "one", "stop_sequence"),
        ("[[say:one two]]", {"stop": [" two"], "max_new_tokens": 2}, "one two", "length"),
        ("[[say:one two]]", {"max_new_tokens": 3}, "one two", "length"),
    ],
)
async def test_a_generation_ends(
    tgi: TgiProcess,
    http: ClientSession,
    inputs: str,
    parameters: dict[str, Any],
    text: str,
    reason: str,
) -> None:
    answer = await whole(http, tgi, inputs, details=True, **parameters)

    assert answer["details"]["finish_reason"] == reason
    assert answer["generated_text"] == text


async def test_text_is_empty_until_a_character_is_complete(
    tgi: TgiProcess, http: ClientSession
) -> None:
    events = await stream(http, tgi, "[[say:é🦙]]")
    cut = await stream(http, tgi, "[[say:é🦙]]", max_new_tokens=4)

    assert [event["token"]["text"] for event in events] == ["", "é", "", "", "", "🦙", "</s>"]
    assert [event["token"]["text"] for event in cut] == ["", "é", "", ""]
    assert cut[-1]["generated_text"] == ""


async def test_full_text(tgi: TgiProcess, http: ClientSession) -> None:
    inputs = "Full [[say:text]]"
    events = await stream(http, tgi, inputs, return_full_text=True)
    full = await whole(http, tgi, inputs, return_full_text=True)

    assert events[0]["token"]["text"] == "text"
    assert events[-1]["generated_text"] == inputs + "text"
    assert full["generated_text"] == inputs + "text"
    assert (await whole(http, tgi, inputs))["generated_text"] == "text"


async def test_long_prompts(tgi: TgiProcess, http: ClientSession) -> None:
    async def error(words: int, wanted: int) -> str:
        request = body(" a" * words, max_new_tokens=wanted)
        async with http.post(f"{tgi.url}/generate", json=request) as answer:
            assert answer.status == 422
            return str((await answer.json())["error"])

    assert await error(2040, 10) == (
        f"{VALIDATION}`inputs` tokens + `max_new_tokens` must be <= 2048. "
        "Given: 2041 `inputs` tokens and 10 `max_new_tokens`"
    )
    assert "Given: 1101 `inputs` tokens and 1024 `max_new_tokens`" in await error(1100, 9999)
    truncated = await stream(http, tgi, " a" * 3000, truncate=7, details=True)
    assert truncated[-1]["details"]["input_length"] == 7


async def test_long_outputs_overshoot(http: ClientSession) -> None:
    environ = {"DOUBLE_TOKENS_PER_SECOND": "0"} | context(8192)
    async with started(environ) as tgi:
        events = await stream(http, tgi, "[[no_eos]]", max_new_tokens=1500, details=True)

    assert [event["index"] for event in events] == list(range(1, 2049))
    assert events[-1]["details"]["generated_tokens"] == 2048
    assert events[-1]["details"]["finish_reason"] == "length"
    assert [event for event in events[:-1] if event["generated_text"] is not None] == []


async def test_a_wish_beyond_the_context_ends_with_length(http: ClientSession) -> None:
    async with started({"DOUBLE_TOKENS_PER_SECOND": "0"} | context(1100)) as tgi:
        events = await stream(http, tgi, "[[no_eos]]", max_new_tokens=50_000, details=True)

    assert len(events) == 1024
    assert events[-1]["details"]["finish_reason"] == "length"


async def test_overload(http: ClientSession) -> None:
    overloaded = {"error": "Model is overloaded", "error_type": "overloaded"}
    async with started({"MAX_CONCURRENT_REQUESTS": "1"}) as tgi:
        url = f"{tgi.url}/generate_stream"
        async with http.post(url, json=body("[[fault:silent]]")) as held:
            assert held.status == 200
            async with http.post(f"{tgi.url}/generate", json=body("a")) as answer:
                assert (answer.status, await answer.json()) == (429, overloaded)
            assert await stream(http, tgi, "a") == [overloaded]
            held.close()
        await runs(http, tgi, 0)
        assert len(await stream(http, tgi, "a")) == 8


@pytest.mark.parametrize("route", ["/generate", "/generate_stream"])
async def test_a_generation_ends_with_its_connection(http: ClientSession, route: str) -> None:
    async with started({"DOUBLE_TOKENS_PER_SECOND": "20"} | context(1000)) as tgi:
        request = json.dumps(body("[[no_eos]]", max_new_tokens=900))
        _, writer = await asyncio.open_connection("127.0.0.1", tgi.port)
        head = f"POST {route} HTTP/1.1\r\nhost: x\r\ncontent-type: {JSON}\r\n"
        writer.write(f"{head}content-length: {len(request)}\r\n\r\n{request}".encode())
        await runs(http, tgi, 1)
        writer.close()
        await writer.wait_closed()
        await runs(http, tgi, 0)

        assert '"message":"Success"' not in "\n".join(tgi.lines)


async def test_keep_alive_comments_and_the_old_framing(http: ClientSession) -> None:
    async with started({"DOUBLE_KEEPALIVE_SECONDS": "0.02", "DOUBLE_SSE": "nospace"}) as tgi:
        request = body("[[fault:slow_first=0.2]]", max_new_tokens=1)
        async with http.post(f"{tgi.url}/generate_stream", json=request) as answer:
            raw = await answer.read()

    assert raw.startswith(b":\n\n:\n\n")
    assert len(events_of(raw, prefix=b"data:")) == 1
    assert b"data: " not in raw


async def test_api_key(http: ClientSession) -> None:
    async with started({"API_KEY": "Secret"}) as tgi:
        found = []
        for key in ("", "Bearer wrong", "bearer sECRET"):
            headers = {"authorization": key}
            async with http.post(f"{tgi.url}/generate", json=body("a"), headers=headers) as answer:
                found.append((answer.status, len(await answer.read()) > 0))
        async with http.get(f"{tgi.url}/health") as answer:
            found.append((answer.status, False))

        assert found == [(401, False), (401, False), (200, True), (200, False)]
        assert "Secret" in tgi.lines[0]


STREAM_FAULTS = {
    "status=424": ("generation", 0),
    "status=429": ("overloaded", 0),
    "status=500": ("incomplete_generation", 0),
    "error_after=5": ("generation", 5),
}


@pytest.mark.parametrize("fault", STREAM_FAULTS)
async def test_ordered_errors(tgi: TgiProcess, http: ClientSession, fault: str) -> None:
    events = await stream(http, tgi, f"[[fault:{fault}]]")
    async with http.post(f"{tgi.url}/generate", json=body(f"[[fault:{fault}]]")) as answer:
        error = await answer.json()

    assert (events[-1]["error_type"], len(events) - 1) == STREAM_FAULTS[fault]
    assert error == events[-1]
    assert answer.status == {"generation": 424, "overloaded": 429}.get(error["error_type"], 500)


@pytest.mark.parametrize(("fault", "status"), [("plain", 502), ("status=503", 503)])
@pytest.mark.parametrize("route", ["/generate", "/generate_stream"])
async def test_answers_of_another_program(
    tgi: TgiProcess, http: ClientSession, route: str, fault: str, status: int
) -> None:
    async with http.post(tgi.url + route, json=body(f"[[fault:{fault}]]")) as answer:
        assert (answer.status, answer.headers["content-type"]) == (status, PLAIN)


async def test_connections_cut(tgi: TgiProcess, http: ClientSession) -> None:
    url = f"{tgi.url}/generate_stream"
    with pytest.raises(ServerDisconnectedError):
        await http.post(url, json=body("[[fault:no_answer]]"))
    async with http.post(url, json=body("[[fault:half_event]]")) as answer:
        complete = await answer.content.readuntil(b"\n\n")
        half = await answer.content.readany()
        with pytest.raises(ClientError):
            await answer.content.readany()
    cut = await stream(http, tgi, "[[fault:cut_after=5]]")
    async with http.post(url, json=body("[[fault:garbage]]")) as answer:
        _, spoilt, rest = (await answer.read()).split(b"\n\n")

    assert events_of(complete)[0]["index"] == 1
    assert half.startswith(b'data: {"index":2')
    assert [event["generated_text"] for event in cut] == [None] * 5
    assert (spoilt, rest) == (b"data: {not json", b"")


async def test_bytes_come_one_by_one(tgi: TgiProcess, http: ClientSession) -> None:
    prompt = "[[fault:bytes]][[say:é]]"
    async with http.post(f"{tgi.url}/generate_stream", json=body(prompt)) as answer:
        parts = [data async for data, _ in answer.content.iter_chunks()]

    assert {len(part) for part in parts if part} == {1}
    assert events_of(b"".join(parts))[-1]["generated_text"] == "é"


async def test_unhealthy(http: ClientSession) -> None:
    async with started() as tgi:
        await whole(http, tgi, "[[fault:unhealthy]]")
        async with http.get(f"{tgi.url}/health") as answer:
            assert answer.status == 503
            assert await answer.json() == {"error": "unhealthy", "error_type": "healthcheck"}


START_AND_STOP = [
    "Args {",
    "Using attention flashinfer - Prefix caching true",
    "Default `max_batch_prefill_tokens` to 2048",
    "Using default cuda graphs",
    "Starting check and download process for org/model",
    "Download file: model-00001-of-00002.safetensors",
    "Download: [1/2] -- ETA: 0:00:00",
    "Download: [2/2] -- ETA: 0",
    "Successfully downloaded weights for org/model",
    "Starting shard",
    "Server started at unix:///tmp/",
    "Shard ready in ",
    "Starting Webserver",
    "Warming up model",
    "Setting max batch total tokens to",
    "Using backend V3",
    "Using the Hugging Face API",
    "Serving revision",
    "Invalid hostname, defaulting to 0.0.0.0",
    "Connected",
    "Terminating webserver",
    "signal received, starting graceful shutdown",
    "webserver terminated",
    "Shutting down shards",
    "shard terminated",
]


def in_order(parts: list[str], text: str) -> None:
    at = 0
    for part in parts:
        at = text.find(part, at)
        assert at >= 0, f"{part!r} is missing, or comes too early"


async def test_log_as_json() -> None:
    async with started({"MODEL_ID": "org/model", "HOSTNAME": "0123456789ab"}) as tgi:
        tgi.signal()
        assert await tgi.exit_status() == 0
    records = [json.loads(line) for line in tgi.lines]
    by_message = {
        record.get("message") or record["fields"]["message"]: record for record in records
    }
    in_order(START_AND_STOP, "\n".join(by_message))

    (ready,) = (record for message, record in by_message.items() if "Shard ready" in message)
    assert set(ready) == {"timestamp", "level", "fields", "target", "span", "spans"}
    assert ready["span"] == {"rank": 0, "name": "shard-manager"}
    assert ready["target"] == "text_generation_launcher"
    connected = by_message["Connected"]
    assert set(connected) == {
        *("timestamp", "level", "message", "target", "filename", "line_number")
    }
    assert "span" not in by_message["Download: [2/2] -- ETA: 0"]
    assert by_message["Starting Webserver"]["target"] == "text_generation_launcher"


async def test_log_as_text() -> None:
    environ = {"MODEL_ID": "org/model", "HOSTNAME": "0123456789ab", "JSON_OUTPUT": "false"}
    async with started(environ) as tgi:
        tgi.signal()
        await tgi.exit_status()

    in_order(START_AND_STOP, "\n".join(tgi.lines))


async def test_the_port_is_closed_until_the_shard_is_ready() -> None:
    async with started({"DOUBLE_LOAD_SECONDS": "60"}, ready=False) as tgi:
        await tgi.logged("Using Attention")
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", tgi.port)
        tgi.signal()

        assert await tgi.exit_status() == 0
        in_order(["Shutting down shards", "shard terminated"], "\n".join(tgi.lines))


def blobs(home: Path) -> list[Path]:
    return list((home / "hub" / "models--org--model" / "blobs").iterdir())


async def half_a_file(home: Path) -> Path:
    """Wait until the incomplete file has the size at which the download hangs."""
    found: list[Path] = []

    async def half() -> bool:
        partial = (path for path in blobs(home) if path.suffix == ".incomplete")
        found.extend(path for path in partial if path.stat().st_size == 50_000)
        return bool(found)

    await until(half, "a file of 50,000 bytes")
    return found[0]


async def test_a_download_fills_the_cache_for_the_next_start(tmp_path: Path) -> None:
    environ = {"MODEL_ID": "org/model", "HF_HOME": str(tmp_path), "DOUBLE_WEIGHT_BYTES": "200000"}
    hangs = {"DOUBLE_FAULT": "hang_downloading"}
    async with started(environ | hangs, ready=False) as tgi:
        await tgi.logged("Download file: model-00001")
        partial = await half_a_file(tmp_path)
        tgi.signal()
        assert await tgi.exit_status() == 0
        assert "download terminated" in tgi.lines[-1]
    partial.write_bytes(b"1" * 50_000)
    async with started(environ) as tgi:
        assert "Downloaded" in "\n".join(tgi.lines)
    async with started(environ) as tgi:
        text = "\n".join(tgi.lines)

    assert ".incomplete" not in {path.suffix for path in blobs(tmp_path)}
    (snapshot,) = (tmp_path / "hub" / "models--org--model" / "snapshots").iterdir()
    first, second = (path.read_bytes() for path in sorted(snapshot.glob("*.safetensors")))
    assert first == b"1" * 50_000 + b"\0" * 50_000
    assert second == b"\1" * 100_000
    in_order(["Skipping download.", "Successfully downloaded"], text)
    assert "Download file" not in text


EXITS = [
    ("gated", "DownloadError", ["Download encountered an error:", "╭─", "GatedRepoError"]),
    ("not_found", "DownloadError", ["Not Found for url:\\nhttps://huggingface.co/"]),
    (
        "cuda_oom",
        "ShardCannotStart",
        [
            "Error when initializing model",
            "Shard complete standard error output:",
            "CUDA out of memory",
            "Shard 0 failed to start",
        ],
    ),
    (
        "oom_kill",
        "ShardCannotStart",
        [
            "Shard process was signaled to shutdown with signal 9",
            "Shard 0 failed to start",
        ],
    ),
]


@pytest.mark.parametrize(("fault", "variant", "lines"), EXITS)
async def test_a_failed_start(fault: str, variant: str, lines: list[str]) -> None:
    async with started({"DOUBLE_FAULT": fault}, ready=False) as tgi:
        assert await tgi.exit_status() == 1

    in_order(lines, "\n".join(tgi.lines))
    assert tgi.errors == f"Error: {variant}\n"


async def test_a_token_opens_a_gated_repository() -> None:
    async with started({"DOUBLE_FAULT": "gated", "HF_TOKEN": "hf_x"}) as tgi:
        assert tgi.process.returncode is None


async def test_a_port_that_is_taken() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        environ = {"PORT": str(taken.getsockname()[1])}
        async with started(environ, ready=False) as tgi:
            assert await tgi.exit_status() == 1

    in_order(
        ["Connected", "Failed to bind to 127.0.0.1", "Address already in use", "Webserver Crashed"],
        "\n".join(tgi.lines),
    )
    assert tgi.errors == "Error: WebserverFailed\n"


@pytest.mark.parametrize(
    ("environ", "status", "part"),
    [
        ({"PORT": "70000"}, 2, "number too large to fit in target type"),
        ({"JSON_OUTPUT": "1"}, 2, "invalid value '1' for '--json-output'"),
        ({"MAX_TOTAL_TOKENS": ""}, 2, "invalid value '' for '--max-total-tokens"),
        ({"QUANTIZE": "q4"}, 2, "invalid value 'q4'"),
        ({"MAX_INPUT_TOKENS": "9", "MAX_TOTAL_TOKENS": "9"}, 1, "ArgumentValidation"),
        ({"MAX_INPUT_TOKENS": "9", "MAX_INPUT_LENGTH": "9"}, 1, "ArgumentValidation"),
        ({"MAX_INPUT_TOKENS": "4096"}, 1, "WebserverFailed"),
        ({"NUM_SHARD": "0"}, 1, "`num_shard` cannot be < 1"),
        (
            context(512) | {"MAX_BATCH_TOTAL_TOKENS": "500"},
            1,
            "`max_total_tokens` must be <= `max_batch_total_tokens`. Given: 512 and 500",
        ),
    ],
)
async def test_bad_options(environ: dict[str, str], status: int, part: str) -> None:
    async with started(environ, ready=False) as tgi:
        assert await tgi.exit_status() == status

    assert part in tgi.errors


async def test_options(http: ClientSession) -> None:
    environ = {"MAX_STOP_SEQUENCES": "3", "MAX_BEST_OF": "6", "SOMETHING_ELSE": "x"}
    async with started(environ) as tgi, http.get(f"{tgi.url}/info") as answer:
        info = await answer.json()

    assert (info["max_stop_sequences"], info["max_best_of"]) == (3, 6)


async def test_drain(http: ClientSession) -> None:
    async with started({"DOUBLE_TOKENS_PER_SECOND": "100"}) as tgi:
        request = body("[[no_eos]]", max_new_tokens=60)
        async with http.post(f"{tgi.url}/generate_stream", json=request) as answer:
            raw = await answer.content.readuntil(b"\n\n")
            tgi.signal()
            tgi.signal()
            await tgi.logged("starting graceful shutdown")
            await refused(tgi)
            assert tgi.process.returncode is None
            events = events_of(raw + await answer.read())

        assert (len(events), await tgi.exit_status()) == (60, 0)
        assert tgi.errors == ""


async def test_a_drain_has_an_end(http: ClientSession) -> None:
    async with started({"GRACEFUL_TERMINATION_TIMEOUT": "1"}) as tgi:
        request = body("[[fault:silent]]")
        async with http.post(f"{tgi.url}/generate_stream", json=request) as answer:
            tgi.signal(signal.SIGINT)
            with pytest.raises(ClientError):
                await answer.read()

        assert await tgi.exit_status() == 0
        in_order(["Killing webserver", "Shutting down shards"], "\n".join(tgi.lines))


async def test_a_shard_that_crashes_takes_everything_down(http: ClientSession) -> None:
    async with started({"DOUBLE_TOKENS_PER_SECOND": "200"}) as tgi:
        url = f"{tgi.url}/generate_stream"
        async with http.post(url, json=body("[[fault:silent]]")) as bystander:
            events = await stream(http, tgi, "[[fault:crash_after=5]]")
            (error,) = events_of(await bystander.read())

        assert (len(events) - 1, events[-1]["error_type"]) == (5, "generation")
        assert error == events[-1]
        assert await tgi.exit_status() == 1
        assert tgi.errors == "Error: ShardFailed\n"
        in_order(["Shard 0 crashed", "Terminating webserver"], "\n".join(tgi.lines))


async def test_a_shard_that_is_killed_fails_all_requests_at_once(http: ClientSession) -> None:
    async with started() as tgi:
        url = f"{tgi.url}/generate_stream"
        async with http.post(url, json=body("[[fault:silent]]")) as held:
            await runs(http, tgi, 1)
            (shard,) = tgi.children("shard.py")
            os.kill(shard, signal.SIGKILL)
            killed = time.monotonic()
            (error,) = events_of(await held.read())
            assert time.monotonic() - killed < 1

        assert error["error"].endswith("Server error: transport error")
        assert await tgi.exit_status() == 1
    log = "\n".join(tgi.lines)
    # The router and the launcher report the end on their own, whoever sees it first.
    router = "Request failed during generation: Server error: transport error"
    in_order(['"target":"text_generation_router_v3::client"', router], log)
    in_order(
        [
            "Shard complete standard error output:",
            "Shard process was signaled to shutdown with signal 9",
            "Shard 0 crashed",
            "Terminating webserver",
        ],
        log,
    )
    assert tgi.errors == "Error: ShardFailed\n"


async def test_a_router_that_is_killed_leaves_a_shard_that_is_killed_too(
    http: ClientSession,
) -> None:
    async with started({"GRACEFUL_TERMINATION_TIMEOUT": "1"}) as tgi:
        request = body("[[fault:router_after=5]]")
        async with http.post(f"{tgi.url}/generate_stream", json=request) as answer:
            with pytest.raises(ClientError):
                await answer.read()

        assert await tgi.exit_status() == 1
    in_order(["Webserver Crashed", "Killing shard", "shard killed"], "\n".join(tgi.lines))
    assert tgi.errors == "Error: WebserverFailed\n"


async def test_a_launcher_that_is_killed_leaves_router_and_shard(http: ClientSession) -> None:
    """Only the end of a container takes them: they are in process groups of their own."""
    async with started() as tgi:
        os.kill(tgi.process.pid, signal.SIGKILL)

        async def ended() -> bool:  # `wait` would wait for the output too, which the others share
            return tgi.process.returncode is not None

        await until(ended, "the launcher has ended")
        assert len(tgi.children()) == 2
        assert len(await stream(http, tgi, "a")) == 8

        tgi.kill()
    assert tgi.children() == []


TWO = "The `past_key_values` should be either a `Cache` object or `None`."


async def test_without_a_gpu_a_batch_of_two_fails_and_the_shard_goes_on(
    http: ClientSession,
) -> None:
    async with on_cpu({"DOUBLE_TOKENS_PER_SECOND": "100"}) as tgi:
        both = await asyncio.gather(
            *(stream(http, tgi, f"{n} [[no_eos]]", max_new_tokens=100) for n in range(2))
        )
        alone = await stream(http, tgi, "[[no_eos]]")

    for events in both:
        assert events[-1]["error"] == f"Request failed during generation: Server error: {TWO}"
        assert events[-1]["error_type"] == "generation"
        assert events[0]["token"]  # made by its prefill
    assert len(alone) == 8
    in_order(["Method Decode encountered an error.", "ValueError: "], "\n".join(tgi.lines))


async def test_without_a_gpu_batches_of_one_wait_for_each_other(http: ClientSession) -> None:
    async with on_cpu({"MAX_BATCH_SIZE": "1"}) as tgi:
        texts = (stream(http, tgi, f"{n} [[no_eos]]") for n in range(20))
        assert {len(events) for events in await asyncio.gather(*texts)} == {8}


async def info(http: ClientSession, tgi: TgiProcess) -> tuple[int, int]:
    async with http.get(f"{tgi.url}/info") as answer:
        found = await answer.json()
    return found["max_total_tokens"], found["max_input_tokens"]


@pytest.mark.parametrize("start", [started, on_cpu])
async def test_the_context_is_that_of_the_model_unless_it_is_given(
    http: ClientSession, start: Callable[..., AbstractAsyncContextManager[TgiProcess]]
) -> None:
    async with start({"MODEL_ID": "openai-community/gpt2"}) as tgi:
        assert await info(http, tgi) == (1024, 1023)
    async with start(context(512) | {"MAX_BATCH_PREFILL_TOKENS": "512"}) as tgi:
        assert await info(http, tgi) == (512, 511)


WARM_UP = "Method Warmup encountered an error."
BUDGET = "`max_batch_prefill_tokens` must be >= `max_input_tokens`. Given: 100 and 511"


@pytest.mark.parametrize("gpu", ["", "0"])
async def test_a_context_below_the_prompt_of_the_warm_up_ends_the_start(gpu: str) -> None:
    environ = {"NVIDIA_VISIBLE_DEVICES": gpu, "MAX_TOTAL_TOKENS": "512"}
    async with on_cpu(environ, ready=False) as tgi:
        assert await tgi.exit_status() == 1

    asked = f"you tried to allocate {8 * (2**32 + 512)} bytes"
    in_order([WARM_UP, asked, "Webserver Crashed"], "\n".join(tgi.lines))
    assert tgi.errors == "Error: WebserverFailed\n"


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        (context(512) | {"MAX_BATCH_PREFILL_TOKENS": "100"}, BUDGET),
        (context(4096), "must be >= `max_input_tokens`. Given: 2048 and 4095"),
        (
            context(512) | {"MAX_BATCH_PREFILL_TOKENS": "600", "MAX_BATCH_TOTAL_TOKENS": "550"},
            "`max_batch_prefill_tokens` must be <= `max_batch_total_tokens`. Given: 600 and 550",
        ),
        ({"MAX_BATCH_SIZE": "0"}, "`max_batch_size` must be > 0"),
        ({"NUM_SHARD": "2"}, "Sharded Llama requires Flash Attention enabled models."),
    ],
)
async def test_options_that_fail_without_a_gpu(environ: dict[str, str], line: str) -> None:
    async with on_cpu(environ, ready=False) as tgi:
        assert await tgi.exit_status() == 1

    assert line in "\n".join(tgi.lines)


async def test_a_gpu_takes_prompts_in_parts(http: ClientSession) -> None:
    async with started(context(512) | {"MAX_BATCH_PREFILL_TOKENS": "100"}) as tgi:
        assert await info(http, tgi) == (512, 511)


async def test_a_context_beyond_the_memory_of_the_gpu() -> None:
    async with started(context(200_000), ready=False) as tgi:
        assert await tgi.exit_status() == 1

    in_order(["Error: Backend(NotEnoughMemory(200000))", "Webserver Crashed"], "\n".join(tgi.lines))


async def test_a_process_that_is_killed(http: ClientSession) -> None:
    async with started() as tgi:
        request = body("[[fault:kill_after=5]]")
        async with http.post(f"{tgi.url}/generate_stream", json=request) as answer:
            with pytest.raises(ClientError):
                await answer.read()

        assert await tgi.exit_status() == -signal.SIGKILL


async def test_the_package_runs_under_another_name(tmp_path: Path) -> None:
    """In an image the folder has another name, and nothing of this project is beside it."""
    os.symlink(Path(__file__).with_name("tgi"), tmp_path / "tgi_double")
    command = (sys.executable, "-m", "tgi_double", "--model-id=gpt2")
    child = await asyncio.create_subprocess_exec(
        *command, cwd=tmp_path, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await child.communicate()

    assert child.returncode == 2
    assert b"unexpected argument '--model-id=gpt2' found" in errors


async def answer_of(
    http: ClientSession, tgi: TgiProcess, path: str, **body: Any
) -> tuple[int, str, bytes]:
    async with http.post(tgi.url + path, json=body) as answer:
        return answer.status, answer.headers["content-type"], await answer.read()


async def test_completions_of_openai_have_the_traps(http: ClientSession, tgi: TgiProcess) -> None:
    asked: dict[str, Any] = {"prompt": "[[say:One two.]]", "temperature": 0, "model": "x"}
    _, _, raw = await answer_of(http, tgi, "/v1/completions", **asked)
    whole = json.loads(raw)
    _, kind, raw = await answer_of(http, tgi, "/v1/completions", **asked, stream=True)
    *events, done, end = raw.split(b"\n\n")
    found = [json.loads(event.removeprefix(b"data: ")) for event in events]

    assert (whole["id"], whole["model"], whole["object"]) == ("", "org/model", "text_completion")
    assert (whole["choices"][0]["text"], whole["choices"][0]["finish_reason"]) == (
        "One two.",
        "stop",
    )
    assert (kind, done, end) == ("text/event-stream", b"data: [DONE]", b"")
    assert [event["choices"][0]["finish_reason"] for event in found][-2:] == ["", "eos_token"]
    assert (found[-1]["choices"][0]["text"], "usage" in found[-1], "usage" in found[0]) == (
        "</s>",
        True,
        False,
    )


async def test_a_chat_of_openai_has_the_traps(http: ClientSession, tgi: TgiProcess) -> None:
    asked: dict[str, Any] = {
        "messages": [{"role": "user", "content": "[[say:One two. Three]]"}],
        "temperature": 0,
        "model": "x",
        "stop": [" two"],
    }
    _, _, raw = await answer_of(http, tgi, "/v1/chat/completions", **asked)
    choice = json.loads(raw)["choices"][0]
    _, _, raw = await answer_of(http, tgi, "/v1/chat/completions", **asked, presence_penalty=-2)
    refusal = json.loads(raw)
    _, _, raw = await answer_of(
        http, tgi, "/v1/chat/completions", **asked, presence_penalty=-2, stream=True
    )

    assert json.loads(raw.split(b"\n\n")[0].removeprefix(b"data: "))["error"] == {
        "message": refusal["error"],
        "http_status_code": 422,
    }
    assert "`repetition_penalty` must be strictly positive" in refusal["error"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("One two", "stop_sequence")


@pytest.mark.parametrize(
    ("path", "body", "part"),
    [
        ("/v1/completions", {"prompt": "a", "stop": "x"}, "expected a sequence"),
        ("/v1/completions", {"prompt": [1]}, "PromptDeserializer"),
        ("/v1/chat/completions", {"messages": [], "logit_bias": {}}, "expected a sequence"),
        (
            "/v1/chat/completions",
            {"messages": [], "max_tokens": 1, "max_completion_tokens": 1},
            "duplicate field `max_tokens`",
        ),
    ],
)
async def test_openais_json_of_another_shape(
    http: ClientSession, tgi: TgiProcess, path: str, body: dict[str, Any], part: str
) -> None:
    status, kind, raw = await answer_of(http, tgi, path, **body)

    assert (status, kind) == (422, PLAIN)
    assert part in raw.decode()


async def test_refusals_of_openais_completions(http: ClientSession, tgi: TgiProcess) -> None:
    for body, kind in (
        ({"prompt": "a", "suffix": ""}, "suffix not supported"),
        ({"prompt": ["a"] * 5}, "batch size exceeded"),
        ({"prompt": "a", "top_p": 1}, "validation"),
    ):
        status, _, raw = await answer_of(http, tgi, "/v1/completions", **body)
        assert (status, json.loads(raw)["error_type"]) == (422, kind)
