"""Answers of llama.cpp and of servers that play them, as the sink of a caller gets them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from inference_service.engines.exchange import Request
from inference_service.engines.llamacpp.engine import Llamacpp
from inference_service.errors import EngineLost
from inference_service.runtimes.ports import Ports
from tests.engines import beds
from tests.engines.beds import Bed
from tests.engines.scripted import Answer, event, plain, serving, stream
from tests.sinks import Kept

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
TEMPLATE = (Path(__file__).parents[2] / "clients" / "chat.jinja").read_text()
ASK = "Tell a story about a dog."
SCHEMA = {
    "type": "object",
    "properties": {"animal": {"type": "string", "maxLength": 8}},
    "required": ["animal"],
}

look = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@pytest.fixture
async def engine() -> AsyncIterator[Llamacpp]:
    engine = Llamacpp("llamacpp:0")
    yield engine
    await engine.aclose()


def posted(path: str, **body: Any) -> Request:
    data = json.dumps(body).encode()
    return Request("POST", path, data, "application/json", "", look(data))


async def asked(
    engine: Llamacpp, answer: Answer, path: str = CHAT, sink: Kept | None = None
) -> Kept:
    sink = sink or Kept()
    async with serving(answer) as server:
        await engine.ask(server.instance, posted(path), sink)
    return sink


def refusal(status: int, message: str) -> bytes:
    return json.dumps({"error": {"code": status, "message": message}}).encode()


async def test_other_bytes_go_on_as_they_are(engine: Llamacpp) -> None:
    pieces = [b"data: {\n\n", b"\xff", b'data: {"type":"response.created"}\n\n']
    for path, answer in (
        (CHAT, stream(*pieces)),
        (RESPONSES, plain(200, *pieces)),
        (CHAT, plain(404, *pieces)),
    ):
        sink = await asked(engine, answer, path)
        assert (sink.body, sink.ends) == (b"".join(pieces), [None])


async def test_an_error_in_pieces_is_mended(engine: Llamacpp) -> None:
    body = refusal(500, "'messages' is required")
    sink = await asked(engine, plain(500, body[:20], body[20:]))

    assert sink.heads[0].status == 400
    assert json.loads(sink.body)["error"]["type"] == "invalid_request_error"
    assert sink.ends == [None]


async def test_an_error_of_the_engine_stays(engine: Llamacpp) -> None:
    body = refusal(500, "llama_decode failed")
    sink = await asked(engine, plain(500, body, header="retry-after: 7"))

    assert (sink.heads[0].status, sink.body, sink.ends) == (500, body, [None])
    assert sink.heads[0].headers[b"retry-after"] == b"7"


async def test_an_empty_error_has_its_head(engine: Llamacpp) -> None:
    sink = await asked(engine, plain(500))

    assert (sink.heads[0].status, sink.pieces, sink.ends) == (500, [], [None])


async def test_an_error_that_breaks_off_has_shown_nothing(engine: Llamacpp) -> None:
    """Another engine may repeat the request."""
    answer = Answer("HTTP/1.1 500 X\r\ncontent-length: 99", [b"{"], "cut")
    sink = Kept()
    with pytest.raises(EngineLost):
        await asked(engine, answer, sink=sink)

    assert not (sink.heads or sink.ends)


async def test_an_error_beyond_the_bound_goes_on(engine: Llamacpp) -> None:
    pieces = [b"x" * 50_000] * 3
    sink = await asked(engine, plain(500, *pieces))

    assert (sink.body, sink.ends) == (b"".join(pieces), [None])


@pytest.mark.parametrize("leaves_at", ["on_head", "on_data"])
@pytest.mark.parametrize("path", [CHAT, RESPONSES])
async def test_a_sink_that_leaves_gets_nothing_more(
    engine: Llamacpp, leaves_at: str, path: str
) -> None:
    body = refusal(500, "'messages' is required")
    answer = plain(500, body) if path == CHAT else stream(event({"type": "response.created"}), b"x")
    sink = Kept(**{leaves_at: lambda kept: kept.source.close()})
    await asked(engine, answer, path, sink)

    assert len(sink.pieces) == (leaves_at == "on_data")
    assert not sink.ends


async def test_a_stream_of_responses_that_breaks_off_ends_with_an_error(engine: Llamacpp) -> None:
    created = event({"type": "response.created", "response": {"id": "r"}})
    sink = Kept()
    with pytest.raises(EngineLost):
        await asked(engine, stream(created, b"data: {", end="cut"), RESPONSES, sink)

    assert b'"output":[]' in sink.body
    assert isinstance(sink.ends[0], OSError)


# On the real program.


async def answer(bed: Bed, path: str, **body: Any) -> tuple[int, Any]:
    sink = Kept()
    await bed.engine.ask(bed.instance, posted(path, **body), sink)
    return sink.heads[0].status, json.loads(sink.body)


def function(name: str) -> dict[str, Any]:
    return {"name": name, "parameters": SCHEMA}


async def test_a_tool_is_called_by_its_name(ports: Ports) -> None:
    async with beds.llamacpp(ports, chat_template=TEMPLATE) as bed:
        said = {"messages": [{"role": "user", "content": ASK}], "max_tokens": 300, "temperature": 0}
        _, chat = await answer(
            bed,
            CHAT,
            **said,
            tools=[{"type": "function", "function": function(name)} for name in ("a", "b")],
            tool_choice={"type": "function", "function": {"name": "b"}},
        )
        [call] = chat["choices"][0]["message"]["tool_calls"]
        assert call["function"]["name"] == "b"
        _, response = await answer(
            bed,
            RESPONSES,
            input=ASK,
            max_output_tokens=300,
            temperature=0,
            tools=[{"type": "function", **function(name)} for name in ("a", "b")],
            tool_choice={"type": "function", "name": "b"},
        )
        names = [item["name"] for item in response["output"] if item["type"] == "function_call"]
        assert names == ["b"]
        _, message = await answer(
            bed,
            MESSAGES,
            **said,
            tools=[{"name": name, "input_schema": SCHEMA} for name in ("a", "b")],
            tool_choice={"type": "tool", "name": "b"},
        )
        assert [part["name"] for part in message["content"] if part["type"] == "tool_use"] == ["b"]


async def test_mistakes_of_callers_are_400s_of_the_real_program(
    ports: Ports, subtests: pytest.Subtests
) -> None:
    """What `check` refuses is sent here too: the engine gets it where nobody checks."""
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aaaa"}}
    tool = {"type": "function", "function": {"name": "f", "description": 5}}
    said = [{"role": "user", "content": "hi"}]
    async with beds.llamacpp(ports) as bed:
        for path, body in (
            (MESSAGES, {}),
            (f"{MESSAGES}/count_tokens", {}),
            (MESSAGES, {"messages": [{"role": "user", "content": [{"type": "text"}]}]}),
            (CHAT, {"messages": [{"role": "user", "content": [part]}]}),
            (CHAT, {"messages": said, "tools": [tool]}),
            (CHAT, {"messages": said, "reasoning_format": "x"}),
            ("/detokenize", {"tokens": [99_999_999]}),
            ("/detokenize", {"tokens": [-1]}),
        ):
            with subtests.test(f"{path} {body}"):
                status, got = await answer(bed, path, max_tokens=4, **body)
                assert (status, got["error"]["code"]) == (400, 400)


async def test_a_prompt_of_the_real_program_is_too_long(ports: Ports) -> None:
    async with beds.llamacpp(ports) as bed:
        said = [{"role": "user", "content": "a dog " * 2000}]
        for path in (CHAT, MESSAGES):
            status, got = await answer(bed, path, messages=said, max_tokens=4, stream=True)
            assert (status, got["error"]["code"]) == (400, "context_length_exceeded")
            assert "exceeds the available context size" in got["error"]["message"]


async def test_an_input_of_the_real_program_is_too_long(ports: Ports) -> None:
    async with beds.llamacpp(ports, serves="embeddings", pooling="mean") as bed:
        status, got = await answer(bed, "/v1/embeddings", input="a dog " * 2000)

    assert (status, got["error"]["code"]) == (400, "context_length_exceeded")


async def test_a_response_of_the_real_program_ends_at_its_limit(ports: Ports) -> None:
    async with beds.llamacpp(ports) as bed:
        asked = {"input": "Once", "temperature": 0}
        _, cut = await answer(bed, RESPONSES, max_output_tokens=12, **asked)
        _, ended = await answer(bed, RESPONSES, max_output_tokens=500, **asked)

    assert (cut["status"], cut["output"][-1]["status"]) == ("incomplete", "incomplete")
    assert cut["incomplete_details"] == {"reason": "max_output_tokens"}
    assert (ended["status"], ended["output"][-1]["status"]) == ("completed", "completed")
    assert ended["usage"]["output_tokens"] < 500


async def test_a_response_of_the_real_program_ends_at_the_end_of_its_context(ports: Ports) -> None:
    async with beds.llamacpp(ports) as bed:
        _, cut = await answer(bed, RESPONSES, input="Once", temperature=0, ignore_eos=True)

    assert (cut["status"], cut["usage"]["total_tokens"]) == ("incomplete", bed.instance.context)


async def test_the_choice_of_none_calls_no_tool(ports: Ports) -> None:
    async with beds.llamacpp(ports, chat_template=TEMPLATE) as bed:
        said = {"messages": [{"role": "user", "content": ASK}], "max_tokens": 300, "temperature": 0}
        tools = [{"name": "a", "input_schema": SCHEMA}]
        for kind, calls in (("any", True), ("none", False)):
            _, got = await answer(bed, MESSAGES, **said, tools=tools, tool_choice={"type": kind})
            assert any(part["type"] == "tool_use" for part in got["content"]) is calls


async def test_a_stream_of_responses_of_the_real_program_is_whole(ports: Ports) -> None:
    async with beds.llamacpp(ports) as bed:
        sink = Kept()
        body = {"input": "Once", "max_output_tokens": 12, "temperature": 0, "stream": True}
        await bed.engine.ask(bed.instance, posted(RESPONSES, **body), sink)

    events = [json.loads(line[6:]) for line in sink.body.splitlines() if line[:5] == b"data:"]
    assert [each["sequence_number"] for each in events] == list(range(len(events)))
    assert events[0]["response"]["output"] == []
    assert events[-1]["type"] == "response.incomplete"
    texts = [each for each in events if each["type"] == "response.output_text.delta"]
    assert texts
    assert all(each["output_index"] == each["content_index"] == 0 for each in texts)
    [item] = events[-1]["response"]["output"]
    assert "".join(each["delta"] for each in texts) == item["content"][0]["text"]
    assert sink.ends == [None]
