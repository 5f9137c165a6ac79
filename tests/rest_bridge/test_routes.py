"""The documented endpoints, as documented."""

import json
from typing import Any

import pytest
from google.api import annotations_pb2

from inference_service.v1 import model_service_pb2 as pb
from rest_bridge.openapi import EXAMPLES
from tests.rest_bridge.conftest import Bridge
from tests.rest_bridge.scripted import ScriptedService

ENOUGH: dict[str, Any] = {"model_id": "gpt-2", "prompt": "Hello"}


def test_routes_are_those_of_the_http_rules(bridge: Bridge) -> None:
    rules = {
        rule.WhichOneof("pattern").upper() + " " + getattr(rule, rule.WhichOneof("pattern"))
        for method in pb.DESCRIPTOR.services_by_name["ModelService"].methods
        if (rule := method.GetOptions().Extensions[annotations_pb2.http]).WhichOneof("pattern")
    }
    paths = bridge.app.openapi()["paths"]
    assert {f"{m.upper()} {path}" for path, methods in paths.items() for m in methods} == rules
    assert len(rules) == 9


async def test_info(bridge: Bridge, service: ScriptedService) -> None:
    service.ports["gpt-2"] = 8080
    response = await bridge.client.get("/")
    assert response.status_code == 200
    assert response.json() == {
        "message": "LLM Inference API",
        "models": ["gpt-2", "tiny-llama"],
        "running_containers": ["gpt-2"],
    }
    assert list(response.json()) == list(EXAMPLES["INFO"])


async def test_models(bridge: Bridge, service: ScriptedService) -> None:
    service.ports["gpt-2"] = 8080
    response = await bridge.client.get("/models")
    assert response.status_code == 200
    assert json.dumps(response.json()) == json.dumps(EXAMPLES["MODELS"])  # with the order


async def test_a_model_is_started_and_stopped(bridge: Bridge) -> None:
    first = await bridge.client.post("/models/gpt-2/start")
    assert first.status_code == 200
    assert json.dumps(first.json()) == json.dumps(EXAMPLES["START"])

    again = await bridge.client.post("/models/gpt-2/start")
    assert (again.status_code, again.json()) == (200, first.json())

    stopped = await bridge.client.post("/models/gpt-2/stop")
    assert (stopped.status_code, stopped.json()) == (200, EXAMPLES["STOP"])

    again = await bridge.client.post("/models/gpt-2/stop")
    assert again.status_code == 404
    assert again.json() == {"detail": "gpt-2 is not running"}
    assert again.headers["x-error-reason"] == "CONTAINER_NOT_RUNNING"


async def test_the_documented_generation(bridge: Bridge, service: ScriptedService) -> None:
    response = await bridge.client.post("/generate", json=EXAMPLES["GENERATE_REQUEST"])
    assert response.status_code == 200
    assert json.dumps(response.json()) == json.dumps(EXAMPLES["GENERATE"])
    assert service.received == [
        pb.GenerateRequest(
            model_id="gpt-2",
            prompt="Once upon a time",
            max_new_tokens=200,
            temperature=0.7,
            top_p=0.95,
        )
    ]


async def test_the_documented_curl(bridge: Bridge, service: ScriptedService) -> None:
    body = (
        '{\n    "model_id": "gpt-2",\n    "prompt": "Hello world",\n    "max_new_tokens": 50\n  }'
    )
    headers = {"Content-Type": "application/json"}
    response = await bridge.client.post("/generate", content=body, headers=headers)
    assert response.status_code == 200
    expected = pb.GenerateRequest(model_id="gpt-2", prompt="Hello world", max_new_tokens=50)
    assert service.received == [expected]


async def test_fields_that_are_not_given_stay_unset(
    bridge: Bridge, service: ScriptedService
) -> None:
    optional = ("max_new_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "seed")
    nulls = dict.fromkeys((*optional, "stop", "return_full_text", "stream"))
    for body in (ENOUGH, ENOUGH | nulls):
        response = await bridge.client.post("/generate", json=body)
        assert response.status_code == 200
    assert service.received == [pb.GenerateRequest(**ENOUGH)] * 2
    assert not any(service.received[0].HasField(field) for field in optional)


@pytest.mark.parametrize(
    "given",
    [
        {"temperature": 0, "top_p": 1, "repetition_penalty": 2},
        {"max_new_tokens": 0, "top_k": 0, "seed": 0, "temperature": 0.0, "return_full_text": False},
        {"max_new_tokens": -(2**31), "top_k": 2**31 - 1, "seed": -1},
        {"stop": []},
        {"stop": ["\n", "é", "", "a", "b"]},
        {"prompt": '\0 \U0001f600 \u2028 \\ "'},
        {"prompt": "", "model_id": ""},
    ],
    ids=str,
)
async def test_values_go_to_the_service_as_they_are(
    bridge: Bridge, service: ScriptedService, given: dict[str, Any]
) -> None:
    service.models[""] = "nothing"
    response = await bridge.client.post("/generate", json=ENOUGH | given)
    assert response.status_code == 200
    expected = pb.GenerateRequest(**ENOUGH)
    expected.MergeFrom(pb.GenerateRequest(**given))
    expected.model_id = given.get("model_id", ENOUGH["model_id"])
    expected.prompt = given.get("prompt", ENOUGH["prompt"])
    assert service.received == [expected]


async def test_a_text_longer_than_a_request_may_be(
    bridge: Bridge, service: ScriptedService
) -> None:
    prompt = "x" * (
        4 * 1024 * 1024 - len(json.dumps(ENOUGH | {"prompt": ""}, separators=(",", ":")))
    )
    response = await bridge.client.post("/generate", json=ENOUGH | {"prompt": prompt})
    assert response.status_code == 200
    assert len(response.json()["generated_text"]) > len(prompt)


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_pages_of_other_origins_start_nothing(
    bridge: Bridge, service: ScriptedService, site: str
) -> None:
    for action in ("start", "stop"):
        response = await bridge.client.post(
            f"/models/gpt-2/{action}", headers={"Sec-Fetch-Site": site}
        )
        assert response.status_code == 403
    assert service.received == []


async def test_the_documentation_page_may_start_models(bridge: Bridge) -> None:
    headers = {"Sec-Fetch-Site": "same-origin"}
    response = await bridge.client.post("/models/gpt-2/start", headers=headers)
    assert response.status_code == 200


async def test_a_caller_is_a_key_of_which_nothing_goes_further_or_an_address(
    bridge: Bridge, service: ScriptedService
) -> None:
    body = {"model_id": "gpt-2", "prompt": "Hello"}
    for headers in ({}, {"Authorization": "Bearer secret"}, {"Authorization": "Bearer other"}):
        for path in ("/generate", "/generate_stream"):
            await bridge.client.post(path, json=body, headers=headers)

    assert service.callers[:2] == ["127.0.0.1"] * 2
    assert service.callers[2] == service.callers[3] != service.callers[4] == service.callers[5]
    assert all(str(caller).startswith("key ") for caller in service.callers[2:])
    assert "secret" not in str(service.callers)
