"""One model, and the options of its start."""

import pytest

from inference_service.v1 import model_service_pb2 as pb
from rest_bridge.openapi import EXAMPLES
from tests.rest_bridge.conftest import Bridge
from tests.rest_bridge.scripted import ScriptedService


async def test_a_model_is_shown_with_its_state(bridge: Bridge, service: ScriptedService) -> None:
    service.ports["gpt-2"] = 8080
    response = await bridge.client.get("/models/gpt-2")

    assert response.status_code == 200
    shown = response.json()
    assert shown["id"] == "gpt-2"
    assert shown["state"] == "MODEL_STATE_READY"
    assert shown["running"] is True
    assert shown["memory_bytes"] == "0"
    assert not {"start_progress", "last_error", "retry_time"} & set(shown)
    assert service.received == [pb.GetModelRequest(model_id="gpt-2")]


@pytest.mark.parametrize("model_id", ["none", "a:b", "..%2e", "%00", "%1b"])
async def test_an_unknown_model_is_a_404(bridge: Bridge, model_id: str) -> None:
    response = await bridge.client.get(f"/models/{model_id}")

    assert response.status_code == 404
    assert response.headers["x-error-reason"] == "MODEL_NOT_FOUND"
    assert list(response.json()) == ["detail"]


async def test_a_start_has_the_documented_fields_alone(
    bridge: Bridge, service: ScriptedService
) -> None:
    response = await bridge.client.post("/models/gpt-2/start?no_wait=false&validate_only=0")

    assert response.json() == EXAMPLES["START"]
    assert service.received == [pb.StartModelRequest(model_id="gpt-2")]


@pytest.mark.parametrize(
    ("option", "more", "message"),
    [
        ("no_wait", {"model"}, pb.StartModelRequest(model_id="gpt-2", no_wait=True)),
        (
            "validate_only",
            {"model", "plan"},
            pb.StartModelRequest(model_id="gpt-2", validate_only=True),
        ),
    ],
)
async def test_a_start_that_does_not_wait_shows_the_model(
    bridge: Bridge,
    service: ScriptedService,
    option: str,
    more: set[str],
    message: pb.StartModelRequest,
) -> None:
    response = await bridge.client.post(f"/models/gpt-2/start?{option}=true")

    assert response.status_code == 200
    assert set(response.json()) == {*EXAMPLES["START"]} | more
    assert response.json()["model"]["id"] == "gpt-2"
    assert service.received == [message]


async def test_an_option_that_is_no_boolean_is_refused(bridge: Bridge) -> None:
    response = await bridge.client.post("/models/gpt-2/start?no_wait=perhaps")

    assert response.status_code == 422
    assert response.json()["detail"].startswith("no_wait: ")
