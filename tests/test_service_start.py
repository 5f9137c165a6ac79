"""StartModel and StopModel over loopback, with story-mini in a real engine."""

from __future__ import annotations

import asyncio
import os
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from inference_service.v1 import model_service_pb2 as pb
from tests.service import PROMPT, Serving, engines, failure, free, free_ports, serving
from tests.waiting import SLOWLY, within


async def test_stop_leaves_no_process_and_no_port(service: Serving) -> None:
    port = (await service.stub.StartModel(pb.StartModelRequest(model_id="story-mini"))).port
    assert len(engines()) == 1
    assert not free(port)

    await service.stub.StopModel(pb.StopModelRequest(model_id="story-mini"))

    assert engines() == []
    assert free(port)


async def test_no_wait_returns_at_once_and_the_start_goes_on(service: Serving) -> None:
    answer = await service.stub.StartModel(
        pb.StartModelRequest(model_id="story-mini", no_wait=True)
    )
    assert answer.model.state == pb.MODEL_STATE_STARTING
    assert answer.container_name == "tgi-story-mini"

    waited = await service.stub.StartModel(pb.StartModelRequest(model_id="story-mini"))

    assert waited.model.state == pb.MODEL_STATE_READY
    assert waited.port == waited.model.port > 0


async def test_the_death_of_an_unused_engine_is_reported_with_its_cause() -> None:
    async with serving(ports=free_ports(4)) as service:
        await service.stub.StartModel(pb.StartModelRequest(model_id="story-mini"))
        [engine] = engines()
        watcher = service.stub.WatchModels(pb.WatchModelsRequest(model_id="story-mini"))
        os.kill(engine, signal.SIGKILL)
        async with within(SLOWLY, "the model did not become FAILED"):
            async for change in watcher:
                model = change.model
                if model.state == pb.MODEL_STATE_FAILED:
                    break
        watcher.cancel()
        assert "exited with code -9, SIGKILL" in model.last_error.message
        assert model.HasField("retry_time")
        response = await service.http.post("/models/story-mini/start")
        assert response.status_code == 503
        assert response.headers["x-error-reason"] == "START_BACKING_OFF"
        await asyncio.sleep(int(response.headers["retry-after"]))
        assert (await service.http.post("/models/story-mini/start")).status_code == 200


async def test_a_plan_has_the_claim_of_a_start() -> None:
    async with serving(ports=free_ports(4), memory="1.2GB") as service:
        ask = service.stub.StartModel
        await ask(pb.StartModelRequest(model_id="story-mini"))

        plan = (await ask(pb.StartModelRequest(model_id="gpt-2", validate_only=True))).plan
        assert (plan.required_memory_bytes, plan.capacity_memory_bytes) == (10**9, 1_200_000_000)
        assert plan.free_memory_bytes == 1_200_000_000 - 256 * 2**20
        assert plan.must_wait  # the minimum residency of story-mini is not over
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await ask(pb.StartModelRequest(model_id="mistral-7b", validate_only=True))
        refused = await service.http.post("/models/mistral-7b/start")

    assert failure(error.value).reason == "INSUFFICIENT_MEMORY"
    assert failure(error.value).code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (refused.status_code, refused.headers["x-error-reason"]) == (503, "INSUFFICIENT_MEMORY")
    assert "12.0 GB" in refused.json()["detail"]


async def test_the_forecast_of_a_start_is_by_the_starts_of_an_earlier_service(
    tmp_path: Path,
) -> None:
    plan = pb.StartModelRequest(model_id="story-mini", validate_only=True)
    settings: dict[str, Any] = {"ports": free_ports(4), "state_dir": tmp_path}
    async with serving(**settings) as service:
        assert not (await service.stub.StartModel(plan)).plan.HasField("usual_duration")
        await service.stub.StartModel(pb.StartModelRequest(model_id="story-mini"))

    async with serving(**settings) as service:
        usual = (await service.stub.StartModel(plan)).plan.usual_duration.ToTimedelta()
        assert usual > timedelta()
        request = pb.GenerateStreamRequest(
            model_id="story-mini", prompt=PROMPT, max_new_tokens=1, status_events=True
        )
        shown = [
            event.status.start_progress
            async for event in service.stub.GenerateStream(request)
            if event.status.model_state == pb.MODEL_STATE_STARTING
        ]
    assert shown[0].remaining_duration.ToTimedelta() <= usual
    assert all(progress.HasField("start_fraction") for progress in shown)
    fractions = [progress.start_fraction for progress in shown]
    assert fractions == sorted(fractions)
    assert 0 <= fractions[0] < fractions[-1] <= 1
