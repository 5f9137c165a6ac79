"""The channel of the bridge, and the service config that other clients use as a whole."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2

from inference_service import errors
from inference_service.v1 import model_service_pb2 as pb
from inference_service.v1 import model_service_pb2_grpc as pb_grpc
from rest_bridge.channel import SERVICE_CONFIG
from rest_bridge.errors import BridgeError
from rest_bridge.remote import RemoteService
from rest_bridge.service import GENERATE, GET_INFO, Metadata
from tests.rest_bridge.loopback import free_port, methods_of, open_remote, serve_grpc
from tests.waiting import PROMPTLY, within

FAILURES = 2
TRANSIENT_FAILURE = grpc.ChannelConnectivity.TRANSIENT_FAILURE


class Failing(pb_grpc.ModelServiceServicer):
    """A servicer whose first calls of each method fail, as those of a service that restarts."""

    def __init__(self) -> None:
        self.calls = 0

    async def GetInfo(self, request: pb.GetInfoRequest, context: Any) -> pb.GetInfoResponse:
        self._fail()
        return pb.GetInfoResponse(version="1")

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> pb.GenerateResponse:
        self._fail()
        return pb.GenerateResponse(generated_text="a")

    def _fail(self) -> None:
        self.calls += 1
        if self.calls <= FAILURES:
            raise errors.ShuttingDown


@asynccontextmanager
async def bridged() -> AsyncGenerator[tuple[Failing, RemoteService]]:
    servicer = Failing()  # type: ignore[abstract]  # the calls that the tests make
    methods = methods_of(servicer, health.aio.HealthServicer())
    async with serve_grpc(methods) as target, open_remote(target) as service:
        yield servicer, service


async def test_the_bridge_tries_a_call_again_that_never_waits() -> None:
    async with bridged() as (servicer, service):
        answer = await service.answer(GET_INFO, pb.GetInfoRequest(), Metadata())

    assert (answer.version, servicer.calls) == ("1", FAILURES + 1)


async def test_the_client_of_rest_makes_the_next_attempt_at_a_text() -> None:
    async with bridged() as (servicer, service):
        with pytest.raises(BridgeError) as error:
            await service.answer(GENERATE, pb.GenerateRequest(), Metadata())

    assert (error.value.reason, servicer.calls) == ("SHUTTING_DOWN", 1)


async def test_a_service_that_is_not_there_is_reported_at_once() -> None:
    async with open_remote(f"127.0.0.1:{free_port()}") as service:
        asked: Any = [(GET_INFO, pb.GetInfoRequest()), (GENERATE, pb.GenerateRequest())]
        for method, request in asked:
            async with within(PROMPTLY, "the call waited for the service"):
                with pytest.raises(BridgeError, match="does not answer"):
                    await service.answer(method, request, Metadata())


async def test_a_client_with_the_service_config_waits_for_the_service_and_tries_again() -> None:
    options = [("grpc.service_config", SERVICE_CONFIG), ("grpc.initial_reconnect_backoff_ms", 100)]
    target = f"127.0.0.1:{free_port()}"
    servicer = Failing()  # type: ignore[abstract]
    server = grpc.aio.server()
    for name, methods in methods_of(servicer, health.aio.HealthServicer()).items():
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, methods),))
    async with grpc.aio.insecure_channel(target, options=options) as channel:
        call = pb_grpc.ModelServiceStub(channel).Generate(pb.GenerateRequest())
        waiting = asyncio.ensure_future(call.code())
        async with within(PROMPTLY, "the channel did not try to connect"):
            while (state := channel.get_state()) is not TRANSIENT_FAILURE:
                await channel.wait_for_state_change(state)
        assert not waiting.done()
        server.add_insecure_port(target)
        await server.start()

        assert (await call).generated_text == "a"
        assert servicer.calls == FAILURES + 1
    await server.stop(None)


def test_the_service_config_has_a_policy_for_methods_of_the_contract_alone() -> None:
    known = {
        service.full_name: {method.name for method in service.methods}
        for service in (
            pb.DESCRIPTOR.services_by_name["ModelService"],
            health_pb2.DESCRIPTOR.services_by_name["Health"],
        )
    }
    for entry in json.loads(SERVICE_CONFIG)["methodConfig"]:
        for name in entry["name"]:
            assert name.get("method") in {None, *known[name["service"]]}


def test_the_packaged_service_config_is_that_of_the_contract() -> None:
    contract = Path(__file__).parents[2] / "protos/inference_service/v1/service_config.json"

    assert contract.read_text() == SERVICE_CONFIG
