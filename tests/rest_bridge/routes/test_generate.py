"""Endpoints that generate a text."""

import json
from typing import Any

import pytest

from inference_service.v1 import model_service_pb2 as pb
from rest_bridge.openapi import EXAMPLES
from tests.rest_bridge.conftest import Bridge
from tests.rest_bridge.scripted import ScriptedService

ENOUGH: dict[str, Any] = {"model_id": "gpt-2", "prompt": "Hello"}


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
