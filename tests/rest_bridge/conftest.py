"""A bridge over a scripted service, with and without a wire between the two."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import pytest
from fastapi import FastAPI
from grpc_health.v1 import health

from rest_bridge import Settings, create_app
from rest_bridge.service import Service
from tests.rest_bridge.loopback import (
    local,
    methods_of,
    open_client,
    open_remote,
    serve_grpc,
    serve_http,
)
from tests.rest_bridge.scripted import ScriptedService


@dataclass(frozen=True)
class Bridge:
    """A running bridge: the application, the address, and a client."""

    app: FastAPI
    url: str
    client: httpx.AsyncClient

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


@pytest.fixture
async def service() -> ScriptedService:
    return ScriptedService()


@pytest.fixture
async def health_service() -> health.aio.HealthServicer:
    return health.aio.HealthServicer()


@pytest.fixture
async def target(
    service: ScriptedService, health_service: health.aio.HealthServicer
) -> AsyncIterator[str]:
    async with serve_grpc(methods_of(service, health_service)) as address:
        yield address


@pytest.fixture
def settings(target: str) -> Settings:
    return Settings(target=target)


@pytest.fixture(params=["wire", "in process"])
def transport(request: pytest.FixtureRequest) -> str:
    """Name the transport: the wire, or the process that bridge and service share."""
    transport: str = request.param
    return transport


@pytest.fixture
async def backend(
    transport: str,
    target: str,
    service: ScriptedService,
    health_service: health.aio.HealthServicer,
) -> AsyncIterator[Service]:
    """Reach the service as the transport does."""
    if transport == "wire":
        async with open_remote(target) as remote:
            yield remote
    else:
        yield local(methods_of(service, health_service), target)


@pytest.fixture
async def bridge(settings: Settings, backend: Service) -> AsyncIterator[Bridge]:
    app = create_app(backend, settings)
    async with (
        serve_http(app) as url,
        open_client(url) as client,
    ):
        yield Bridge(app, url, client)
