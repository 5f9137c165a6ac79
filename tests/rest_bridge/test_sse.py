"""Streams of server-sent events."""

import asyncio
import json
from typing import Any

import pytest

from inference_service.v1 import model_service_pb2 as pb
from rest_bridge import Settings
from rest_bridge.sse import line
from tests.rest_bridge.conftest import Bridge
from tests.rest_bridge.scripted import ScriptedService, chunk, failure, status, summary
from tests.waiting import within

ENOUGH: dict[str, Any] = {"model_id": "gpt-2", "prompt": "Hello"}
STREAMS = [("/generate_stream", ENOUGH), ("/generate", ENOUGH | {"stream": True})]
SUMMARY = {
    "finish_reason": "FINISH_REASON_LENGTH",
    "prompt_token_count": 4,
    "completion_token_count": 7,
    "start_duration": "0s",
    "first_token_duration": "0.210s",
    "total_duration": "1.930s",
    "resumptions": [],
    "model_id": "gpt-2",
}


def events(text: str) -> list[tuple[str, object]]:
    """Parse the events of a body, each of exactly the lines `event:` and `data:`."""
    assert text.endswith("\n\n")
    found = []
    for block in text[:-2].split("\n\n"):
        name, data = block.split("\n")
        assert name.startswith("event: ") and data.startswith("data: ")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


@pytest.mark.parametrize(("path", "body"), STREAMS)
async def test_a_stream(
    bridge: Bridge, service: ScriptedService, path: str, body: dict[str, object]
) -> None:
    service.steps = [chunk(","), chunk(" in a", 2), summary("gpt-2")]
    response = await bridge.client.post(path, json=body)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream"
    assert response.headers["cache-control"] == "no-cache, no-transform"
    assert response.headers["x-accel-buffering"] == "no"
    assert events(response.text) == [
        ("chunk", {"text": ",", "token_count": 1}),
        ("chunk", {"text": " in a", "token_count": 2}),
        ("summary", SUMMARY),
    ]
    assert service.received == [pb.GenerateStreamRequest(**ENOUGH)]


async def test_status_events(bridge: Bridge, service: ScriptedService) -> None:
    service.steps = [status(pb.START_PHASE_PULLING_IMAGE), summary("gpt-2")]
    body = ENOUGH | {"status_events": True, "seed": 0, "stop": ["."]}
    response = await bridge.client.post("/generate_stream", json=body)
    name, data = events(response.text)[0]
    assert name == "status"
    assert data == {
        "model_state": "MODEL_STATE_STARTING",
        "start_progress": {
            "phase": "START_PHASE_PULLING_IMAGE",
            "completed_count": "5",
            "total_count": "1099511627776",
            "unit": "bytes",
            "message": "",
            "queue_position": 0,
        },
        "queue_position": 0,
    }
    assert service.received == [
        pb.GenerateStreamRequest(**ENOUGH, status_events=True, seed=0, stop=["."])
    ]


@pytest.mark.parametrize(
    "text", ["\n\n", "\r\nevent: error\r\n\r\n", '"\\', "\0\x1b\x7f", "\u2028\x85", "é \U0001f600"]
)
async def test_any_text_stays_in_its_event(
    bridge: Bridge, service: ScriptedService, text: str
) -> None:
    service.steps = [chunk(text), summary("gpt-2")]
    response = await bridge.client.post("/generate_stream", json=ENOUGH)
    assert events(response.text)[0] == ("chunk", {"text": text, "token_count": 1})


@pytest.mark.parametrize("character", "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\x9b\x7f\u202e")
async def test_an_event_has_one_line_for_each_reader(
    bridge: Bridge, service: ScriptedService, character: str
) -> None:
    """Clients end a line at more than CR and LF (httpx-sse#34, langgenius/dify#39008)."""
    service.steps = [chunk(f"a{character}b"), summary("gpt-2")]
    response = await bridge.client.post("/generate_stream", json=ENOUGH)

    assert character not in response.text
    assert len(response.text.splitlines()) == 6
    assert events(response.text)[0] == ("chunk", {"text": f"a{character}b", "token_count": 1})


def test_a_line_of_a_log_is_one_event_whatever_is_in_it() -> None:
    """A service of another version may send the line as it is."""
    forged = 'one\r\revent: error\ndata: {"detail": "forged"}\u2028'

    assert line(pb.StreamLogsResponse(line=forged)).decode() == (
        r'data: one\r\revent: error\ndata: {"detail": "forged"}\u2028' + "\n\n"
    )


async def test_each_event_is_sent_when_it_comes(bridge: Bridge, service: ScriptedService) -> None:
    gates = [asyncio.Event(), asyncio.Event()]
    service.steps = [chunk("a"), gates[0], chunk("b"), gates[1], summary("gpt-2")]
    async with bridge.client.stream("POST", "/generate_stream", json=ENOUGH) as response:
        received = response.aiter_text()
        for text, gate in zip("ab", gates, strict=True):
            async with within(10, "an event was not sent before the next"):
                sent = await anext(received)
            assert events(sent) == [("chunk", {"text": text, "token_count": 1})]
            gate.set()
        assert events(await anext(received)) == [("summary", SUMMARY)]


@pytest.mark.parametrize(("path", "body"), STREAMS)
async def test_a_failure_before_the_first_event_has_its_own_status(
    bridge: Bridge, service: ScriptedService, path: str, body: dict[str, object]
) -> None:
    service.steps = [failure("START_BACKING_OFF", "not yet", retry_after=2.5)]
    response = await bridge.client.post(path, json=body)
    assert (response.status_code, response.json()) == (503, {"detail": "not yet"})
    assert response.headers["x-error-reason"] == "START_BACKING_OFF"
    assert response.headers["retry-after"] == "3"


async def test_a_failure_after_the_first_event_is_an_event(
    bridge: Bridge, service: ScriptedService
) -> None:
    service.steps = [chunk("a"), failure("ENGINE_FAILED", "the engine died")]
    response = await bridge.client.post("/generate_stream", json=ENOUGH)
    assert response.status_code == 200
    assert events(response.text) == [
        ("chunk", {"text": "a", "token_count": 1}),
        ("error", {"detail": "the engine died", "reason": "ENGINE_FAILED"}),
    ]
    assert (await bridge.client.get("/models")).status_code == 200


async def test_a_stream_without_events_is_empty(bridge: Bridge, service: ScriptedService) -> None:
    service.steps = []
    response = await bridge.client.post("/generate_stream", json=ENOUGH)
    assert response.status_code == 200
    assert response.text == ""


async def test_a_kind_of_event_of_a_newer_service(bridge: Bridge, service: ScriptedService) -> None:
    service.steps = [pb.GenerateStreamResponse(), chunk("a"), summary("gpt-2")]
    response = await bridge.client.post("/generate_stream", json=ENOUGH)
    assert [name for name, _ in events(response.text)] == ["chunk", "summary"]


class TestKeepAlive:
    @pytest.fixture
    def settings(self, target: str) -> Settings:
        return Settings(target=target, keep_alive_seconds=0.02)

    async def test_silence_after_the_first_event_has_comments(
        self, bridge: Bridge, service: ScriptedService
    ) -> None:
        gate = asyncio.Event()
        service.steps = [chunk("a"), gate, summary("gpt-2")]
        async with bridge.client.stream("POST", "/generate_stream", json=ENOUGH) as response:
            received = response.aiter_text()
            assert events(await anext(received)) == [("chunk", {"text": "a", "token_count": 1})]
            async with within(10, "no three comments came"):
                comments = "".join([await anext(received) for _ in range(3)])
            assert set(comments.split("\n\n")) == {": keep-alive", ""}
            gate.set()
            rest = "".join([text async for text in received])
        assert events(rest.replace(": keep-alive\n\n", "")) == [("summary", SUMMARY)]
        assert "_keep_alive" not in repr(asyncio.all_tasks())


async def test_a_long_stream_arrives_whole_and_in_order(
    bridge: Bridge, service: ScriptedService
) -> None:
    texts = [f"{i} " + "x" * 8000 for i in range(2000)]
    service.steps = [*map(chunk, texts), summary("gpt-2")]
    response = await bridge.client.post("/generate_stream", json=ENOUGH)
    *chunks, last = events(response.text)
    assert [name for name, _ in chunks] == ["chunk"] * len(texts)
    assert [data for _, data in chunks] == [{"text": text, "token_count": 1} for text in texts]
    assert last == ("summary", SUMMARY)
