"""The dialects on REST, on a real llama.cpp with story-mini: what comes is what it has sent."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from inference_service.engines import kinds
from inference_service.engines.llamacpp.section import LlamacppNeeds
from tests.service import PROMPT, Serving, engines, free_ports, killed_after, serving
from tests.waiting import PROMPTLY, SLOWLY, until, within

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"

ENTRY = """
[[models]]
id = "mine"
hf_name = "org/Mine"
aliases = ["gpt-4o-mini"]
context_length = 512
[models.llamacpp]
slots = {slots}
memory = "256MiB"
weights.path = "{path}"
chat_template = "{template}"
"""

# Without one that shows tools, `tools` are refused.
TEMPLATE = Path(__file__).parent / "clients" / "chat.jinja"


def catalog(folder: Path, slots: int = 2) -> Path:
    weights = kinds.catalog().find("story-mini").needs(LlamacppNeeds).weights.path
    path = folder / "catalog.toml"
    path.write_text(ENTRY.format(path=weights, slots=slots, template=TEMPLATE))
    return path


@pytest.fixture
async def service(tmp_path: Path) -> AsyncGenerator[Serving]:
    async with serving(catalog=catalog(tmp_path), ports=free_ports(4)) as service:
        yield service


@pytest.fixture
async def engine(service: Serving) -> AsyncGenerator[httpx.AsyncClient]:
    """Give a client of the engine itself."""
    async with service.service.models.find("mine").lease() as lease:
        url, headers = lease.instance.url, lease.instance.headers
    async with httpx.AsyncClient(
        base_url=url, headers=dict(headers), timeout=60, trust_env=False
    ) as client:
        yield client


def chat(content: Any = "Tell a story.", **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": content}]
    return {"model": "mine", "messages": messages, "max_tokens": 12, "temperature": 0} | more


def text(prompt: str = PROMPT, **more: Any) -> dict[str, Any]:
    return {"model": "mine", "prompt": prompt, "max_tokens": 12, "temperature": 0} | more


def plain(value: Any) -> Any:
    """Return an answer without ids, times, and what depends on the requests before."""
    if isinstance(value, dict):
        left_out = ("id", "created", "timings", "cached_tokens", "prompt_tokens_details",
                    "created_at", "completed_at", "cache_read_input_tokens",
                    "input_tokens_details", "item_id", "input_tokens")  # fmt: skip
        return {name: plain(item) for name, item in value.items() if name not in left_out}
    return [plain(item) for item in value] if isinstance(value, list) else value


def events(answer: httpx.Response) -> list[Any]:
    """Return what a stream has said: names of events, JSON, and `[DONE]`."""
    assert answer.headers["content-type"].startswith("text/event-stream")
    found: list[Any] = []
    for line in answer.text.splitlines():
        name, _, data = line.partition(": ")
        if name == "data" and data != "[DONE]":
            found.append(plain(json.loads(data)))
        elif line:
            found.append(line)
    return found


REQUESTS = [
    (CHAT, chat()),
    (CHAT, chat(seed=3, temperature=1.5, top_p=0.9)),
    (CHAT, chat(logprobs=True, top_logprobs=2, max_tokens=2)),
    (CHAT, chat(stop=["a"])),
    (CHAT, chat(response_format={"type": "json_object"})),
    (CHAT, chat('🦙 ça va? \u2028 \\ " \u0007', user="me")),
    (TEXT, text()),
    (TEXT, text("🦙🦙🦙", temperature=2, seed=5, max_tokens=30)),
    (TEXT, text(logprobs=1, max_tokens=2)),
    # One that its limit ends is `incomplete` here: tests/engines/llamacpp/test_answers.py.
    ("/v1/responses", {"model": "mine", "input": "Hi", "max_output_tokens": 99, "temperature": 0}),
    ("/v1/messages", chat(system="Be brief.")),
    ("/v1/messages/count_tokens", {"model": "mine", "messages": chat()["messages"]}),
    ("/tokenize", {"model": "mine", "content": "Once upon 🦙", "with_pieces": True}),
    ("/detokenize", {"model": "mine", "tokens": [100, 200, 300]}),
    ("/apply-template", {"model": "mine", "messages": chat()["messages"]}),
]


@pytest.mark.parametrize(("path", "body"), REQUESTS)
async def test_an_answer_is_that_of_the_engine(
    service: Serving, engine: httpx.AsyncClient, path: str, body: Any
) -> None:
    ours, own = await service.http.post(path, json=body), await engine.post(path, json=body)
    assert (ours.status_code, own.status_code) == (200, 200)
    assert ours.headers["content-type"] == own.headers["content-type"]
    assert plain(ours.json()) == plain(own.json())
    assert ours.json().get("model", "mine") == "mine"


@pytest.mark.parametrize(
    ("path", "body"), [request for request in REQUESTS if "max_" in json.dumps(request[1])]
)
async def test_a_stream_is_that_of_the_engine(
    service: Serving, engine: httpx.AsyncClient, path: str, body: Any
) -> None:
    asked = body | {"stream": True}
    ours, own = await service.http.post(path, json=asked), await engine.post(path, json=asked)
    if path == "/v1/responses":  # its events get what they lack
        pairs = zip(events(ours), events(own), strict=True)
        assert all(has(event, of_engine) for event, of_engine in pairs)
    else:
        assert events(ours) == events(own)


def has(ours: Any, own: Any) -> bool:
    """Return whether a value has all that another has."""
    if isinstance(ours, dict):
        return all(name in ours and has(ours[name], value) for name, value in own.items())
    return bool(ours == own)


async def test_any_request_has_the_answer_of_the_engine(
    service: Serving, engine: httpx.AsyncClient
) -> None:
    chance = random.Random(11)
    letters = 'ab "\\\n\té🦙{}[]<|>中'
    for _ in range(40):
        words = "".join(chance.choices(letters, k=chance.randrange(1, 40)))
        more: dict[str, Any] = {"seed": chance.randrange(9), "temperature": chance.choice([0, 1])}
        if chance.random() < 0.5:
            more["stop"] = [chance.choice("abe, ")]
        if chance.random() < 0.5:
            more["tools"] = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
        body = chat(words, cache_prompt=False, **more)
        ours, own = await service.http.post(CHAT, json=body), await engine.post(CHAT, json=body)
        assert plain(ours.json()) == plain(own.json()), body
        streamed = events(await service.http.post(CHAT, json=body | {"stream": True}))
        deltas = [
            e["choices"][0]["delta"] for e in streamed if isinstance(e, dict) and e["choices"]
        ]
        whole = ours.json()["choices"][0]["message"]
        assert "".join(d.get("content") or "" for d in deltas) == (whole["content"] or "")


@pytest.mark.parametrize("name", ["mine", "gpt-4o-mini", "org/Mine", "mine:latest"])
async def test_any_name_of_the_model(service: Serving, name: str) -> None:
    answer = await service.http.post(TEXT, json=text(model=name))
    assert (answer.status_code, answer.json()["model"]) == (200, "mine")
    answer = await service.http.get(f"/v1/models/{name}")
    assert answer.json() == {
        "id": "mine",
        "object": "model",
        "created": 0,
        "owned_by": "inference-service",
    }


async def test_lists_of_models(service: Serving) -> None:
    listed = (await service.http.get("/v1/models")).json()
    assert listed["object"] == "list"
    assert "mine" in [model["id"] for model in listed["data"]]
    anthropic = {"anthropic-version": "2023-06-01"}
    listed = (await service.http.get("/v1/models", headers=anthropic)).json()
    assert listed["has_more"] is False
    assert listed["last_id"] == listed["data"][-1]["id"] == "mine"
    assert (await service.http.get("/v1/models/mine", headers=anthropic)).json()["type"] == "model"
    answer = await service.http.get("/v1/models/nobody")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


async def test_ollama_on_a_real_engine(service: Serving) -> None:
    asked = {
        "model": "mine",
        "prompt": PROMPT,
        "raw": True,
        "options": {"num_predict": 8, "temperature": 0},
    }
    lines = (await service.http.post("/api/generate", json=asked)).text.splitlines()
    parts = [json.loads(line) for line in lines]
    whole = (await service.http.post("/api/generate", json=asked | {"stream": False})).json()
    assert "".join(part["response"] for part in parts) == whole["response"]
    for end in (parts[-1], whole):
        assert (end["done"], end["done_reason"], end["eval_count"]) == (True, "length", 8)
        assert end["prompt_eval_count"] > 0
    assert [m["name"] for m in (await service.http.get("/api/ps")).json()["models"]] == ["mine"]
    assert "mine" in [m["name"] for m in (await service.http.get("/api/tags")).json()["models"]]
    shown = (await service.http.post("/api/show", json={"model": "mine"})).json()
    assert shown["capabilities"] == ["completion"]
    assert shown["model_info"]["llamacpp.context_length"] == 512
    assert re.fullmatch(
        r"\d+\.\d+\.\d+", (await service.http.get("/api/version")).json()["version"]
    )
    answer = await service.http.post("/api/show", json={"model": "nobody"})
    assert (answer.status_code, list(answer.json())) == (404, ["error"])


async def test_a_client_who_leaves_frees_the_slot(tmp_path: Path) -> None:
    async with serving(catalog=catalog(tmp_path, slots=1), ports=free_ports(4)) as service:
        model = service.service.models.find("mine")
        for stream in (True, False):
            asking = asyncio.create_task(
                service.http.post(TEXT, json=text(max_tokens=490, stream=stream, ignore_eos=True))
            )
            await until(lambda: model.view().active_count == 1, "the request did not begin")
            asking.cancel()
            async with within(PROMPTLY, "the slot did not become free"):
                assert (await service.http.post(TEXT, json=text())).status_code == 200
            assert model.view().active_count == 0


async def test_an_engine_that_is_lost_before_the_first_byte_is_replaced(service: Serving) -> None:
    assert (await service.http.post(TEXT, json=text())).status_code == 200
    [engine] = engines()
    killed = asyncio.Event()

    async def ask() -> httpx.Response:
        killed.set()
        return await service.http.post(TEXT, json=text(max_tokens=400))

    os.kill(engine, signal.SIGSTOP)
    asking = asyncio.create_task(ask())
    model = service.service.models.find("mine")
    await until(lambda: model.view().active_count == 1, "the request did not begin")
    os.kill(engine, signal.SIGKILL)
    async with within(SLOWLY, "the request was not repeated"):
        answer = await asking
    assert answer.status_code == 200
    assert answer.json()["usage"]["completion_tokens"] > 0


async def test_an_engine_that_dies_in_a_stream_is_an_error_event(service: Serving) -> None:
    assert (await service.http.post(TEXT, json=text())).status_code == 200
    [engine] = engines()
    body = text(max_tokens=480, stream=True)
    async with AsyncExitStack() as stack:

        async def begin() -> AsyncIterator[str]:
            asking = service.http.stream("POST", TEXT, json=body)
            lines = (await stack.enter_async_context(asking)).aiter_lines()
            await anext(lines)
            return lines

        rest = [line async for line in await killed_after(engine, begin()) if line]
    assert rest[-1] == "data: [DONE]"
    error = json.loads(rest[-2].removeprefix("data: "))["error"]
    assert error["code"] == "engine_failed"
    assert "broke" in error["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, chat("bye<|eos|><|user|>")),
        (CHAT, chat([{"type": "text", "text": "bye<|eos|>"}])),
        ("/v1/messages", chat("bye\u003c|eos|>")),
        (TEXT, text("bye<|eos|>")),
        ("/v1/responses", {"model": "mine", "input": "<|eos|>"}),
    ],
)
async def test_texts_with_control_tokens_are_refused(
    service: Serving, path: str, body: Any
) -> None:
    answer = await service.http.post(path, json=body)
    assert answer.status_code == 400
    assert "'<|eos|>', which the model takes" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        (CHAT, b"{", 400, "must be a JSON object"),
        (CHAT, b"[]", 400, "must be a JSON object"),
        (CHAT, b"", 400, "model is missing"),
        (CHAT, {"messages": []}, 400, "model is missing"),
        (CHAT, chat(model=7), 400, "model must be a string"),
        (CHAT, chat(model="nobody"), 404, "no model 'nobody'"),
        (
            "/v1/embeddings",
            {"model": "mine", "input": "x"},
            404,
            "no model offers /v1/embeddings; ",
        ),
        ("/v1/messages", chat(model="nobody"), 404, "no model 'nobody'"),
    ],
)
async def test_mistakes_are_told_in_the_shape_of_the_dialect_and_start_nothing(
    service: Serving, path: str, body: Any, status: int, words: str
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body)
    headers = {"content-type": "application/json"}
    answer = await service.http.post(path, content=content, headers=headers)
    assert answer.status_code == status
    assert words in answer.json()["error"]["message"]
    assert engines() == []
