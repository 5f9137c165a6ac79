"""Endpoints for the models of the catalog."""

import json

from rest_bridge.openapi import EXAMPLES
from tests.rest_bridge.conftest import Bridge
from tests.rest_bridge.scripted import ScriptedService


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
