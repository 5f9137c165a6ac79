"""Real servers on free ports of the loopback, and clients of them."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc.aio
import httpx
from grpc_health.v1 import health, health_pb2_grpc
from starlette.types import ASGIApp

from inference_service.api.listener import OPTIONS, SERVICE
from inference_service.api.methods import Handlers, by_path, gated
from inference_service.v1.model_service_pb2_grpc import (
    ModelServiceServicer,
    add_ModelServiceServicer_to_server,
)
from rest_bridge import channel as bridge_channel
from rest_bridge.app import Api, front
from rest_bridge.http import Limits, Server
from rest_bridge.local import LocalService
from rest_bridge.remote import RemoteService
from rest_bridge.service import Forwarding


def methods_of(
    servicer: ModelServiceServicer, health_servicer: health.aio.HealthServicer
) -> dict[str, Handlers]:
    """Return the methods of a ModelService and its health service, behind the gate."""
    name = health.SERVICE_NAME
    return {
        SERVICE: gated(SERVICE, add_ModelServiceServicer_to_server, servicer),
        name: gated(name, health_pb2_grpc.add_HealthServicer_to_server, health_servicer),
    }


@asynccontextmanager
async def serve_grpc(services: dict[str, Handlers]) -> AsyncIterator[str]:
    """Serve gRPC; yield HOST:PORT."""
    server = grpc.aio.server(options=OPTIONS)
    for name, methods in services.items():
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(grace=None)


@asynccontextmanager
async def open_remote(target: str) -> AsyncIterator[RemoteService]:
    """Open a channel as the command does, and yield the service behind it."""
    async with grpc.aio.insecure_channel(target, options=bridge_channel.OPTIONS) as channel:
        yield RemoteService(channel, target)


def local(services: dict[str, Handlers], target: str) -> LocalService:
    """Return the service in this process, as the service does for its own bridge."""
    return LocalService(by_path(services), NoForwarder(), target)


class NoForwarder:
    """What passes no requests on."""

    def begin(self, request: object, context: object, sink: object) -> Forwarding:
        raise NotImplementedError

    def status(self, error: Exception) -> grpc.Status:
        raise NotImplementedError


@asynccontextmanager
async def serve_http(app: ASGIApp, limits: Limits | None = None) -> AsyncIterator[str]:
    """Serve an ASGI application; yield its base URL.

    When the context is left, requests that run have a second to end, as the command gives them its
    time-out.
    """
    route = front(app).route if isinstance(app, Api) else None
    server = Server(app, limits, route=route)
    listener = socket.create_server(("127.0.0.1", 0))
    server.start([listener])
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        await server.close(1)


def open_client(url: str) -> httpx.AsyncClient:
    """Open an HTTP client for loopback, which needs no proxies and loads no certificates."""
    return httpx.AsyncClient(base_url=url, trust_env=False, verify=False)


def free_port() -> int:
    """Find a port on which nothing listens now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
