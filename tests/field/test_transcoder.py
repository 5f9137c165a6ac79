"""The REST paths of the contract, answered by Envoy's transcoder as the bridge answers them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from google.protobuf import json_format
from google.rpc import error_details_pb2, status_pb2

from inference_service.v1 import model_service_pb2 as pb
from rest_bridge.errors import unpacked
from tests.field import documented
from tests.service import PROMPT, Serving, free_ports, serving
from tests.waiting import SLOWLY, within

pytestmark = pytest.mark.envoy

GREEDY: dict[str, Any] = {
    "model_id": "story-mini",
    "prompt": PROMPT,
    "temperature": 0,
    "max_new_tokens": 12,
}


@dataclass(frozen=True)
class Both:
    """A service, a client of its bridge, and one of the transcoder."""

    service: Serving
    bridge: httpx.AsyncClient
    envoy: httpx.AsyncClient

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[Any, Any]:
        """Return the JSON of both, which have to succeed."""
        answers = [
            await client.request(method, path, json=body) for client in (self.bridge, self.envoy)
        ]
        assert [answer.status_code for answer in answers] == [200, 200], answers
        bridge, envoy = (answer.json() for answer in answers)
        return bridge, envoy


@pytest.fixture
async def both(tmp_path: Path) -> AsyncIterator[Both]:
    async with serving(ports=free_ports(4)) as service:
        rest, rpc = (
            int(str(address).rpartition(":")[2])
            for address in (service.service.rest_url, service.service.target)
        )
        async with documented.transcoder(rest, rpc, tmp_path) as proxy, proxy.http() as client:
            yield Both(service, service.http, client)


def part_of(small: Any, large: Any) -> bool:
    """Return whether all fields of one JSON are in another."""
    if isinstance(small, dict):
        return small.keys() <= large.keys() and all(part_of(small[k], large[k]) for k in small)
    if isinstance(small, list):
        return len(small) == len(large) and all(map(part_of, small, large))
    return bool(small == large)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        pytest.param("GET", "/", None, id="info"),
        pytest.param("GET", "/models", None, id="list"),
        pytest.param("POST", "/models/gpt-2/start?validate_only=true", None, id="plan"),
        pytest.param("POST", "/catalog:reload", None, id="reload"),
        pytest.param("POST", "/generate", GREEDY, id="generate"),
    ],
)
async def test_an_answer_has_the_fields_of_the_bridge(
    both: Both, method: str, path: str, body: Any
) -> None:
    bridge, envoy = await both.ask(method, path, body)

    assert bridge and part_of(bridge, envoy), (bridge, envoy)


@pytest.mark.parametrize("name", ["story-mini", "TinyLlama/TinyLlama-1.1B-Chat-v1.0"])
async def test_a_model_is_shown_as_a_field(both: Both, name: str) -> None:
    bridge, envoy = await both.ask("GET", f"/models/{name}")

    assert bridge["hf_name"] == name
    assert envoy == {"model": bridge}


async def test_a_model_is_started_read_and_stopped(both: Both) -> None:
    bridge, envoy = await both.ask("POST", "/models/story-mini/start")
    assert part_of(bridge, envoy), (bridge, envoy)

    path = "/models/story-mini/logs?tail_line_count=2"
    lines = [line async for line in events(both.bridge, "GET", path)]
    shown = [json.loads(line)["line"] async for line in events(both.envoy, "GET", path)]
    assert len(lines) == 2 and lines == shown

    stopped = (await both.envoy.post("/models/story-mini/stop")).json()
    assert stopped["message"] == "Container for story-mini stopped"
    assert stopped["model"]["state"] == "MODEL_STATE_STOPPED"


async def test_a_text_is_streamed(both: Both) -> None:
    whole = (await both.bridge.post("/generate", json=GREEDY)).json()["generated_text"]
    seen = [
        json.loads(data) async for data in events(both.envoy, "POST", "/generate_stream", GREEDY)
    ]

    messages = [json_format.ParseDict(each, pb.GenerateStreamResponse()) for each in seen]
    assert PROMPT + "".join(message.chunk.text for message in messages) == whole
    assert messages[-1].summary.completion_token_count == 12


async def test_changes_come_as_they_happen(both: Both) -> None:
    async with within(SLOWLY, "no end of the snapshot"):
        async for data in events(both.envoy, "GET", "/models:watch?model_id=story-mini"):
            message = json_format.Parse(data, pb.WatchModelsResponse())
            if message.HasField("snapshot_done"):
                break
            assert message.model.id == "story-mini"


async def test_a_field_that_the_contract_does_not_have_is_ignored(both: Both) -> None:
    answer = await both.envoy.post("/generate", json=GREEDY | {"stream": True, "nonsense": 1})

    assert answer.status_code == 200 and answer.json()["generated_text"].startswith(PROMPT)


async def test_a_field_of_another_type_is_refused_by_envoy(both: Both) -> None:
    answer = await both.envoy.post("/generate", json=GREEDY | {"prompt": 7})

    assert (answer.status_code, answer.headers["content-type"]) == (400, "text/plain")
    assert answer.text.startswith("prompt: ")


@pytest.mark.parametrize(
    ("method", "path", "body", "codes"),
    [
        pytest.param("GET", "/models/nobody", None, (404, 404), id="no such model"),
        pytest.param("POST", "/models/story-mini/stop", None, (404, 404), id="does not run"),
        pytest.param("POST", "/generate", GREEDY | {"top_k": -1}, (422, 400), id="out of bounds"),
        pytest.param(
            "POST", "/generate_stream", GREEDY | {"model_id": "nobody"}, (404, 404), id="a stream"
        ),
        pytest.param(
            "POST", "/generate", GREEDY | {"prompt": "Once " * 5000}, (422, 400), id="too long"
        ),
    ],
)
async def test_an_error_has_the_sentence_and_the_reason_of_the_bridge(
    both: Both, method: str, path: str, body: Any, codes: tuple[int, int]
) -> None:
    bridge, envoy = [
        await client.request(method, path, json=body) for client in (both.bridge, both.envoy)
    ]

    assert (bridge.status_code, envoy.status_code) == codes
    status = json_format.ParseDict(envoy.json(), status_pb2.Status())
    info = unpacked(status, error_details_pb2.ErrorInfo())
    assert info and info.reason == bridge.headers["x-error-reason"]
    assert status.message == bridge.json()["detail"]


async def test_paths_without_a_rule_go_on_to_the_bridge(both: Both) -> None:
    body = {"model": "story-mini", "prompt": PROMPT, "max_tokens": 3}

    answer = await both.envoy.post("/v1/completions", json=body)

    assert answer.status_code == 200 and answer.json()["choices"][0]["text"]


async def events(
    client: httpx.AsyncClient, method: str, path: str, body: Any = None
) -> AsyncIterator[str]:
    """Yield the data of each event of a stream."""
    async with client.stream(method, path, json=body) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                yield line.removeprefix("data: ")
