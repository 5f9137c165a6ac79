"""A FAILED model as JSON, printed by the libraries of several languages."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import Any

import pytest
from google.protobuf import json_format

from inference_service.v1 import model_service_pb2 as pb
from tests.grpc.programs import MODES, Ended, grpcurl, run
from tests.service import Serving, engines, free_ports, serving
from tests.waiting import SLOWLY, within

pytestmark = pytest.mark.grpc


async def fail(service: Serving) -> None:
    """Start a model, and kill its engine."""
    await service.stub.StartModel(pb.StartModelRequest(model_id="story-mini"))
    [engine] = engines()
    watcher = service.stub.WatchModels(pb.WatchModelsRequest(model_id="story-mini"))
    os.kill(engine, signal.SIGKILL)
    async with within(SLOWLY, "the model did not become FAILED"):
        async for change in watcher:
            if change.model.state == pb.MODEL_STATE_FAILED:
                break
    watcher.cancel()


async def test_each_library_prints_it_and_the_same() -> None:
    async with serving(ports=free_ports(4)) as service:
        await fail(service)
        target = service.service.target

        models = await service.stub.ListModels(pb.ListModelsRequest())
        method = "inference_service.v1.ModelService/ListModels"
        go, *shown = await asyncio.gather(
            run("client", target), *(grpcurl(mode, target, method) for mode in MODES)
        )

    python = json.loads(json_format.MessageToJson(models))
    [failed] = [model for model in python["models"] if model["id"] == "story-mini"]
    error = failed["lastError"]
    assert failed["state"] == "MODEL_STATE_FAILED"
    assert error["reason"] == "ERROR_REASON_ENGINE_DIED"
    assert "exited with code -9, SIGKILL" in error["message"]
    assert error["metadata"] == {
        "model_id": "story-mini",
        "exit_code": "-9",
        "oom_killed": "false",
    }
    assert error["logLines"]
    assert printed(go) == python
    assert [printed(each) for each in shown] == [python] * len(MODES)


def printed(ended: Ended) -> Any:
    assert ended.code == 0, ended.err
    return json.loads(ended.out)
