"""The service for clients of gRPC: health, reflection, and messages of any kind."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from inference_service.v1 import model_service_pb2 as pb
from inference_service.v1 import model_service_pb2_grpc as pb_grpc
from tests.service import Serving, failure


async def test_health_names_the_service_and_each_model(service: Serving) -> None:
    health: Any = health_pb2_grpc.HealthStub(service.channel)

    async def status(name: str) -> int:
        request = health_pb2.HealthCheckRequest(service=name)
        return int((await health.Check(request)).status)

    serving = 1
    for name in ("", "inference_service.v1.ModelService", "story-mini"):
        assert await status(name) == serving
    assert (await service.http.get("/readyz")).status_code == 200


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_lists_and_describes_the_service(service: Serving, version: str) -> None:
    ask = service.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    name = "inference_service.v1.ModelService"
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=name),
    ]
    listed, described = [answer async for answer in ask(iter(requests))]

    assert name in {found.name for found in listed.list_services_response.service}
    assert len(described.file_descriptor_response.file_descriptor_proto) >= 1


async def test_a_request_that_is_no_message_is_an_invalid_parameter(service: Serving) -> None:
    call: Any = service.channel.unary_unary("/inference_service.v1.ModelService/Generate")

    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call(b"\xff\xff\xff")

    assert failure(error.value).reason == "INVALID_PARAMETER"


async def test_fields_that_the_contract_does_not_have_are_ignored_over_grpc(
    service: Serving,
) -> None:
    """As in proto3, so that newer clients can call older services."""
    call: Any = service.channel.unary_unary("/inference_service.v1.ModelService/GetModel")
    request = pb.GetModelRequest(model_id="story-mini").SerializeToString() + b"\xfa\x3f\x01x"

    answer = pb.GetModelResponse.FromString(await call(request))

    assert answer.model.id == "story-mini"


async def test_a_generated_stub_of_the_sync_api_works_too(service: Serving) -> None:
    def call() -> list[str]:
        with grpc.insecure_channel(service.service.target) as channel:
            stub = pb_grpc.ModelServiceStub(channel)
            return list(stub.GetInfo(pb.GetInfoRequest()).models)

    assert (await asyncio.to_thread(call))[-1] == "story-mini"


async def test_a_reflection_client_lists_and_calls_the_service(service: Serving) -> None:
    """`buf curl` knows the contract from reflection alone."""

    async def buf(*arguments: str) -> str:
        command = [str(Path(sys.executable).with_name("buf")), "curl", "--http2-prior-knowledge"]
        process = await asyncio.create_subprocess_exec(
            *command, "--protocol", "grpc", *arguments, stdout=asyncio.subprocess.PIPE
        )
        return (await process.communicate())[0].decode()

    url = f"http://{service.service.target}"
    method = "inference_service.v1.ModelService/Generate"

    listed = await buf(f"{url}/", "--list-methods")
    answer = await buf(f"{url}/{method}", "-d", '{"modelId": "story-mini", "prompt": "Once upon"}')

    assert method in listed.split()
    assert json.loads(answer)["generatedText"].startswith("Once upon")
