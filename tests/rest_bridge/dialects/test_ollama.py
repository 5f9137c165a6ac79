"""Ollama's API over loopback, with a service that answers in OpenAI's JSON by a script."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from rest_bridge import Settings
from rest_bridge.errors import BridgeError
from rest_bridge.service import Forwarded, Sink
from tests.rest_bridge.dialects.conftest import Scripted

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
TIMES = ("created_at", "total_duration", "load_duration", "prompt_eval_duration", "eval_duration")
USAGE = {"prompt_tokens": 3, "completion_tokens": 2}


def answers(script: Scripted, *chunks: Any, stream: bool = True) -> None:
    """Have the service answer with these chunks, or with one of them as a whole."""

    async def play(request: Forwarded, sink: Sink) -> None:
        script.head(sink, kind="text/event-stream" if stream else "application/json")
        for chunk in chunks:
            data = chunk if isinstance(chunk, bytes) else json.dumps(chunk).encode()
            sink.data(b"data: %b\n\n" % data if stream else data)
        sink.end(None)

    script.play = play


def delta(finish: str | None = None, **fields: Any) -> Any:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


def lines(answer: httpx.Response) -> list[Any]:
    """Return the lines without their times, which are there."""
    found = [json.loads(line) for line in answer.text.splitlines()]
    for line in found:
        for name in TIMES if line["done"] else TIMES[:1]:
            assert line.pop(name) is not None
        assert line.pop("model") == "m"
    return found


def asked(script: Scripted) -> Any:
    return json.loads(script.asked[-1][0].body)


END = {"done": True, "done_reason": "length", "prompt_eval_count": 3, "eval_count": 2}


async def test_a_chat_is_a_stream_by_default(script: Scripted, client: httpx.AsyncClient) -> None:
    answers(
        script,
        delta(role="assistant", content=None),
        delta(reasoning_content="hm"),
        delta(content="On"),
        delta("length", content="ce"),
        {"choices": [], "usage": USAGE},
        b"[DONE]",
    )
    answer = await client.post("/api/chat", json=ASK)
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert lines(answer) == [
        {"message": {"role": "assistant", "content": "", "thinking": "hm"}, "done": False},
        {"message": {"role": "assistant", "content": "On"}, "done": False},
        {"message": {"role": "assistant", "content": "ce"}, "done": False},
        {"message": {"role": "assistant", "content": ""}, **END},
    ]
    assert asked(script) == ASK | {"stream": True, "stream_options": {"include_usage": True}}
    assert script.asked[0][0].path == "/v1/chat/completions"


async def test_a_whole_chat_and_its_options(script: Scripted, client: httpx.AsyncClient) -> None:
    message = {"role": "assistant", "content": "Once"}
    answers(
        script,
        {"choices": [{"message": message, "finish_reason": "length"}], "usage": USAGE},
        stream=False,
    )
    body = ASK | {
        "stream": False,
        "format": {"type": "object"},
        "think": False,
        "keep_alive": "5m",
        "options": {"num_predict": -1, "temperature": 0, "num_ctx": 4096, "repeat_penalty": 1.1},
    }
    # The content type does not matter, as with `curl -d`.
    answer = await client.post("/api/chat", content=json.dumps(body))
    assert lines(answer) == [{"message": message, **END}]
    schema = {"name": "answer", "schema": {"type": "object"}}
    assert asked(script) == ASK | {
        "temperature": 0,
        "repeat_penalty": 1.1,
        "response_format": {"type": "json_schema", "json_schema": schema},
        "chat_template_kwargs": {"enable_thinking": False},
    }


async def test_tools(script: Scripted, client: httpx.AsyncClient) -> None:
    def call(index: int, **function: str) -> Any:
        return delta(tool_calls=[{"index": index, "id": "x", "function": function}])

    answers(
        script,
        call(0, name="legs", arguments=""),
        call(0, arguments='{"of": '),
        call(0, arguments='"a dog"}'),
        call(1, name="cut", arguments='{"of'),
        delta("length"),
    )
    called = {"function": {"name": "legs", "arguments": {"of": "a cat"}}}
    messages = [
        *ASK["messages"],
        {"role": "assistant", "content": "", "tool_calls": [called, called]},
        {"role": "tool", "content": "4", "tool_name": "legs"},
        {"role": "tool", "content": "4"},
    ]
    answer = await client.post("/api/chat", json=ASK | {"messages": messages, "tools": [{}]})
    [end] = lines(answer)
    assert end["message"]["tool_calls"] == [
        {"function": {"name": "legs", "arguments": {"of": "a dog"}}}
    ]
    assert end["done_reason"] == "length"
    made = asked(script)["messages"]
    assert [call["id"] for call in made[1]["tool_calls"]] == ["call_0", "call_1"]
    assert [made[2]["tool_call_id"], made[3]["tool_call_id"]] == ["call_0", "call_1"]
    assert json.loads(made[1]["tool_calls"][0]["function"]["arguments"]) == {"of": "a cat"}


async def test_a_text_is_the_answer_to_a_chat(script: Scripted, client: httpx.AsyncClient) -> None:
    answers(script, delta(content="Once"), delta("length"), {"choices": [], "usage": USAGE})
    body = {"model": "m", "prompt": "hi", "system": "Be brief.", "images": ["iVBORx", "/9j/x"]}
    answer = await client.post("/api/generate", json=body)
    assert lines(answer) == [{"response": "Once", "done": False}, {"response": "", **END}]
    system, user = asked(script)["messages"]
    assert system == {"role": "system", "content": "Be brief."}
    assert [part.get("image_url", {}).get("url") for part in user["content"]] == [
        *(None, "data:image/png;base64,iVBORx", "data:image/jpeg;base64,/9j/x")
    ]


async def test_a_raw_text_is_a_completion(script: Scripted, client: httpx.AsyncClient) -> None:
    answers(
        script,
        {"choices": [{"text": "Once", "finish_reason": "length"}], "usage": USAGE},
        stream=False,
    )
    body = {"model": "m", "prompt": "hi", "raw": True, "stream": False}
    assert lines(await client.post("/api/generate", json=body)) == [{"response": "Once", **END}]
    assert script.asked[0][0].path == "/v1/completions"
    assert asked(script) == {"model": "m", "prompt": "hi"}


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
async def test_without_a_prompt_the_model_is_started(
    script: Scripted, client: httpx.AsyncClient, path: str
) -> None:
    answers(script, {"object": "list"}, stream=False)
    [line] = lines(await client.post(path, json={"model": "m"}))
    assert (line["done"], line["done_reason"]) == (True, "load")
    [(request, _)] = script.asked
    assert (request.method, request.path, request.model_id) == ("GET", "/v1/models", "m")


async def test_embeddings(script: Scripted, client: httpx.AsyncClient) -> None:
    data = [{"index": 1, "embedding": [3]}, {"index": 0, "embedding": [1.5, 2]}]
    answers(script, {"data": data, "usage": USAGE}, stream=False)
    answer = (await client.post("/api/embed", json={"model": "m", "input": ["a", "b"]})).json()
    assert answer["embeddings"] == [[1.5, 2], [3]]
    assert answer["prompt_eval_count"] == 3
    assert asked(script) == {"model": "m", "input": ["a", "b"], "encoding_format": "float"}
    answer = (await client.post("/api/embeddings", json={"model": "m", "prompt": "a"})).json()
    assert answer == {"embedding": [1.5, 2]}


@pytest.mark.parametrize(
    ("path", "change", "words"),
    [
        ("chat", {"options": {"nonsense": 1}}, "options.nonsense is no option; options are"),
        ("chat", {"messages": "hi"}, "Expected `array`, got `str` - at `$.messages`"),
        ("chat", {"messages": [{"role": "tool", "content": "4"}]}, "answers no call before it"),
        ("chat", {"format": "xml"}, 'format must be "json" or a JSON schema'),
        ("chat", {"messages": [], "keep_alive": 0}, "POST /models/m/stop"),
        ("generate", {"prompt": "a", "suffix": "b"}, "suffix is not taken here"),
        ("generate", {"prompt": "a", "context": [1]}, "or use /api/chat"),
        ("generate", {"prompt": "a", "raw": True, "system": "b"}, "all is in the prompt"),
        ("embed", {}, "input is missing"),
    ],
)
async def test_mistakes(
    script: Scripted, client: httpx.AsyncClient, path: str, change: Any, words: str
) -> None:
    answer = await client.post(
        f"/api/{path}", json=(ASK if path == "chat" else {"model": "m"}) | change
    )
    assert answer.status_code == 400
    assert words in answer.json()["error"]
    assert not script.asked


async def test_errors(script: Scripted, client: httpx.AsyncClient) -> None:
    async def refuses(request: Forwarded, sink: Sink) -> None:
        script.head(sink, 400)
        sink.data(b'{"error": {"message": "too long"}}')
        sink.end(None)

    async def breaks_off(request: Forwarded, sink: Sink) -> None:
        script.head(sink, kind="text/event-stream")
        sink.data(b"data: %b\n\ndata: {" % json.dumps(delta(content="On")).encode())
        raise BridgeError("ENGINE_FAILED", "broke off")

    script.play = refuses
    answer = await client.post("/api/chat", json=ASK)
    assert (answer.status_code, answer.json()) == (400, {"error": "too long"})
    script.play = breaks_off
    last = (await client.post("/api/chat", json=ASK)).text.splitlines()[-1]
    assert json.loads(last) == {"error": "broke off"}
    answers(script, delta(content="a"), {"error": {"message": "no memory"}}, delta(content="b"))
    last = (await client.post("/api/chat", json=ASK)).text.splitlines()[-1]
    assert json.loads(last) == {"error": "no memory"}
    answers(script, b"nonsense", stream=False)
    answer = await client.post("/api/chat", json=ASK | {"stream": False})
    assert answer.status_code == 502
    assert "the engine's answer cannot be read" in answer.json()["error"]


class TestEarly:
    """A stream whose engine does not answer has lines without text."""

    @pytest.fixture
    def early(self) -> float:
        return 0.01

    @pytest.fixture
    def settings(self) -> Settings:
        return Settings(keep_alive_seconds=0.01, access_log=False)

    async def test_lines_without_text(self, script: Scripted, client: httpx.AsyncClient) -> None:
        more = asyncio.Event()

        async def play(request: Forwarded, sink: Sink) -> None:
            await more.wait()
            script.head(sink, kind="text/event-stream")
            sink.data(b"data: %b\n\n" % json.dumps(delta("stop", content="On")).encode())
            sink.end(None)

        script.play = play
        async with client.stream("POST", "/api/chat", json=ASK) as answer:
            found = answer.aiter_lines()
            first = json.loads(await anext(found))
            assert (first["message"]["content"], first["done"]) == ("", False)
            more.set()
            rest = [json.loads(line) async for line in found]
        assert "".join(line["message"]["content"] for line in rest) == "On"
        assert rest[-1]["done"]
