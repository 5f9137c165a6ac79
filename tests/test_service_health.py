"""Health over a real channel: what its clients check, and what they do by themselves."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from inference_service.v1 import model_service_pb2 as pb
from inference_service.v1 import model_service_pb2_grpc as pb_grpc
from tests.field import catalogs
from tests.service import Serving, failure, free_ports, serving
from tests.waiting import PROMPTLY, SLOWLY, within

SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3


@pytest.fixture
def stub(service: Serving) -> Any:
    return health_pb2_grpc.HealthStub(service.channel)


def asked(name: str) -> health_pb2.HealthCheckRequest:
    return health_pb2.HealthCheckRequest(service=name)


@asynccontextmanager
async def checked(target: str, model_id: str) -> AsyncGenerator[Any]:
    """Give a stub whose channel sends a call only while the model's own health is SERVING."""
    config = {
        "loadBalancingConfig": [{"round_robin": {}}],  # pick_first checks no health
        "healthCheckConfig": {"serviceName": model_id},
    }
    options = [("grpc.service_config", json.dumps(config))]
    async with grpc.aio.insecure_channel(target, options=options) as channel:
        yield pb_grpc.ModelServiceStub(channel)


async def test_a_channel_that_checks_a_models_own_health_starts_that_model(
    service: Serving,
) -> None:
    request = pb.GenerateRequest(model_id="story-mini", prompt="Once", max_new_tokens=3)
    async with (
        checked(service.service.target, "story-mini") as stub,
        within(SLOWLY, "the channel held the call back"),
    ):
        first = await stub.Generate(request, wait_for_ready=True)
        await service.stub.StopModel(pb.StopModelRequest(model_id="story-mini"))
        again = await stub.Generate(request, wait_for_ready=True)

    assert first.generated_text and again.generated_text


async def test_a_list_has_the_health_of_the_service_and_of_each_model(
    service: Serving, stub: Any
) -> None:
    call: Any = service.channel.unary_unary(
        "/grpc.health.v1.Health/List",
        request_serializer=lambda _: b"",
        response_deserializer=health_pb2.HealthListResponse.FromString,  # type: ignore[attr-defined]
    )
    listed = (await call(None)).statuses
    models = await service.stub.ListModels(pb.ListModelsRequest())

    names = {"", "inference_service.v1.ModelService", *(model.id for model in models.models)}
    assert set(listed) == names
    assert {answer.status for answer in listed.values()} == {SERVING}


async def test_bytes_that_are_no_message_of_health(
    service: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    kinds: Any = {
        "Check": service.channel.unary_unary,
        "List": service.channel.unary_unary,
        "Watch": service.channel.unary_stream,
    }
    for name, kind in kinds.items():
        call = kind(f"/grpc.health.v1.Health/{name}")(b"\xff\xff\xff")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await (anext(aiter(call)) if name == "Watch" else call)
        shown = failure(error.value)
        assert (shown.code, shown.reason) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_PARAMETER",
        )
    assert not caplog.records


async def test_a_model_that_failed_serves_again_after_its_back_off(tmp_path: Path) -> None:
    catalog = tmp_path / "models.toml"
    catalog.write_text(catalogs.UNREACHABLE)
    async with serving(catalog=catalog, ports=free_ports(4)) as service:
        stub: Any = health_pb2_grpc.HealthStub(service.channel)
        assert (await stub.Check(asked("huge"))).status == NOT_SERVING
        watch = stub.Watch(asked("broken"))
        assert (await watch.read()).status == SERVING
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await service.stub.StartModel(pb.StartModelRequest(model_id="broken"))
        async with within(SLOWLY, "the health did not change"):
            assert (await watch.read()).status == NOT_SERVING
            assert failure(error.value).reason == "START_FAILED"
            assert (await watch.read()).status == SERVING
        watch.cancel()


async def test_what_no_retry_mends_serves_again_once_it_is_stopped(tmp_path: Path) -> None:
    catalog = tmp_path / "models.toml"
    catalogs.write(catalog, unreadable="64MiB")  # whose file is empty
    async with serving(catalog=catalog, ports=free_ports(4)) as service:
        watch: Any = health_pb2_grpc.HealthStub(service.channel)
        statuses = watch.Watch(asked("unreadable"))
        assert (await statuses.read()).status == SERVING
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await service.stub.StartModel(pb.StartModelRequest(model_id="unreadable"))
        assert failure(error.value).reason == "MODEL_UNUSABLE"
        async with within(SLOWLY, "the health did not change"):
            assert (await statuses.read()).status == NOT_SERVING
            with pytest.raises(grpc.aio.AioRpcError):
                await service.stub.StopModel(pb.StopModelRequest(model_id="unreadable"))
            assert (await statuses.read()).status == SERVING
        statuses.cancel()


async def test_a_watch_is_told_of_the_shutdown_and_ends_with_its_error() -> None:
    async with serving() as service:
        stub: Any = health_pb2_grpc.HealthStub(service.channel)
        watches = [stub.Watch(asked(name)) for name in ("", "story-mini", "nobody")]
        seen = [(await watch.read()).status for watch in watches]
        assert seen == [SERVING, SERVING, SERVICE_UNKNOWN]
        channel = grpc.aio.insecure_channel(service.service.target)
        late: Any = health_pb2_grpc.HealthStub(channel)
        other = late.Watch(asked(""))
        await other.read()

    async with within(PROMPTLY, "the watch did not end"):
        assert (await other.read()).status == NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await other.read()
    assert failure(error.value).reason == "SHUTTING_DOWN"
    await channel.close()
