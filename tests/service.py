"""A whole service in the test's own loop, on free ports, with a client of each protocol."""

from __future__ import annotations

import random
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from inference_service.runtimes.ports import Ports
from inference_service.server import Service, running
from inference_service.settings import Settings
from inference_service.v1 import model_service_pb2_grpc as pb_grpc


@dataclass(frozen=True)
class Serving:
    """A service that runs, and a client of each protocol."""

    service: Service
    channel: grpc.aio.Channel
    stub: pb_grpc.ModelServiceAsyncStub
    http: httpx.AsyncClient


@asynccontextmanager
async def serving(
    claims: Ports | None = None, *, count: int = 1, **changes: Any
) -> AsyncGenerator[Serving]:
    """Run the service: by default on the embedded runtime, with the ports of its settings."""
    defaults = {"grpc_port": 0, "rest_port": 0, "runtime": "process", "drain_timeout": 5}
    settings = Settings.model_validate(defaults | changes)
    async with (
        running(settings, claims, count=count) as service,
        grpc.aio.insecure_channel(service.target) as channel,
    ):
        assert service.rest_url is not None
        async with httpx.AsyncClient(
            base_url=service.rest_url, timeout=60, trust_env=False
        ) as http:
            yield Serving(service, channel, pb_grpc.ModelServiceStub(channel), http)


@dataclass(frozen=True)
class Failure:
    """An error status, taken apart."""

    code: grpc.StatusCode
    message: str
    reason: str
    metadata: dict[str, str]
    details: dict[str, Message]


def failure(error: grpc.RpcError) -> Failure:
    """Return the status with which a call has failed. It has exactly one ErrorInfo."""
    assert isinstance(error, grpc.aio.AioRpcError)
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    assert isinstance(status, status_pb2.Status), error
    found: dict[str, Message] = {}
    for kind in ("ErrorInfo", "BadRequest", "RetryInfo", "DebugInfo"):
        for packed in status.details:
            message = getattr(error_details_pb2, kind)()
            if packed.Unpack(message):
                assert kind not in found
                found[kind] = message
    info = found["ErrorInfo"]
    assert isinstance(info, error_details_pb2.ErrorInfo)
    assert info.domain == "inference-service"
    return Failure(error.code(), status.message, info.reason, dict(info.metadata), found)


def free(port: int) -> bool:
    """Return whether nothing listens on this port of 127.0.0.1."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def free_ports(count: int) -> str:
    """Return a range of `count` ports that are free now, for the setting `ports`."""
    for _ in range(1000):  # at random, since another run of the tests may choose at the same time
        first = random.randrange(20000, 30000)
        if all(free(port) for port in range(first, first + count)):
            return f"{first}-{first + count - 1}"
    raise AssertionError("no ports are free")
