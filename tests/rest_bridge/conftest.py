"""A bridge over a scripted service, by each way that there is between the two."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import pytest
from fastapi import FastAPI
from grpc_health.v1 import health

from rest_bridge import Settings, create_app
from rest_bridge.service import Channel
from tests.rest_bridge.loopback import (
    enter_in_process,
    open_channel,
    open_client,
    serve_grpc,
    serve_http,
)
from tests.rest_bridge.scripted import ScriptedService


@dataclass(frozen=True)
class Bridge:
    """A running bridge: its application, its address, and a client of it."""

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
    async with serve_grpc(service, health_service) as address:
        yield address


@pytest.fixture
def settings(target: str) -> Settings:
    return Settings(target=target)


@pytest.fixture(params=["wire", "in process"])
def way(request: pytest.FixtureRequest) -> str:
    """How the bridge reaches the service: as a command of its own, or beside it."""
    way: str = request.param
    return way


@pytest.fixture
async def channel(
    way: str,
    target: str,
    service: ScriptedService,
    health_service: health.aio.HealthServicer,
) -> AsyncIterator[Channel]:
    opening = open_channel(target) if way == "wire" else enter_in_process(service, health_service)
    async with opening as channel:
        yield channel


@pytest.fixture
async def bridge(settings: Settings, channel: Channel) -> AsyncIterator[Bridge]:
    app = create_app(channel, settings)
    async with (
        serve_http(app) as url,
        open_client(url) as client,
    ):
        yield Bridge(app, url, client)
