"""Endpoints that stream changes of models, and logs."""

import asyncio
import json

import pytest

from inference_service.v1 import model_service_pb2 as pb
from tests.rest_bridge.conftest import Bridge
from tests.rest_bridge.scripted import ScriptedService
from tests.waiting import PROMPTLY, within

STREAMS = ["/models:watch?model_id=gpt-2", "/models/gpt-2/logs?follow=true"]


async def test_each_kind_of_change_is_an_event(bridge: Bridge, service: ScriptedService) -> None:
    response = await bridge.client.get("/models:watch?model_id=gpt-2&after_revision=5")

    assert response.headers["content-type"] == "text/event-stream"
    events = [block.split("\n") for block in response.text[:-2].split("\n\n")]
    assert [lines[:2] for lines in events] == [
        ["id: 7", "event: model"],
        ["id: 7", "event: model"],
        ["id: 7", "event: snapshot_done"],
        ["id: 8", "event: removed_model_id"],
    ]
    data = [json.loads(line.removeprefix("data: ")) for _, _, line in events]
    assert [model["id"] for model in data[:2]] == list(service.models)
    assert data[2:] == [{}, "mistral-7b"]
    assert service.received == [pb.WatchModelsRequest(model_id="gpt-2", after_revision=5)]


async def test_each_line_of_a_log_is_an_event(bridge: Bridge, service: ScriptedService) -> None:
    response = await bridge.client.get("/models/gpt-2/logs?tail_line_count=7&follow=true")

    assert response.headers["content-type"] == "text/event-stream"
    assert response.text == "data: Connected\n\n"
    expected = pb.StreamLogsRequest(model_id="gpt-2", tail_line_count=7, follow=True)
    assert service.received == [expected]


@pytest.mark.parametrize("path", STREAMS)
async def test_the_head_is_sent_when_the_call_is_accepted(
    bridge: Bridge, service: ScriptedService, path: str
) -> None:
    """A proxy gives up on a stream without a head, however long the next change takes."""
    service.may_go_on.clear()
    async with within(PROMPTLY, "no head came before the first event"):
        request = bridge.client.stream("GET", path)
        response = await request.__aenter__()
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream"
    service.may_go_on.set()
    assert "data: " in (await response.aread()).decode()
    await request.__aexit__(None, None, None)


@pytest.mark.parametrize("path", ["/models:watch?model_id=none", "/models/none/logs"])
async def test_a_call_that_is_not_accepted_keeps_its_status(bridge: Bridge, path: str) -> None:
    response = await bridge.client.get(path)

    assert response.status_code == 404
    assert response.headers["x-error-reason"] == "MODEL_NOT_FOUND"


async def test_a_long_snapshot_does_not_hold_the_loop(
    bridge: Bridge, service: ScriptedService
) -> None:
    service.models = {f"model-{number}": "name" for number in range(300)}
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    others = asyncio.create_task(take_turns())
    response = await bridge.client.get("/models:watch")
    others.cancel()

    assert response.text.count("event: model\n") == 300
    assert turns >= 300
