"""Real servers on free ports of the loopback, and clients of them."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc.aio
import httpx
import uvicorn
from grpc_health.v1 import health, health_pb2_grpc
from starlette.types import ASGIApp

from inference_service.api import in_process
from inference_service.api.listener import SERVICE
from inference_service.api.methods import handlers
from inference_service.v1.model_service_pb2_grpc import (
    ModelServiceServicer,
    add_ModelServiceServicer_to_server,
)
from rest_bridge.cli import CHANNEL_OPTIONS


@asynccontextmanager
async def serve_grpc(
    servicer: ModelServiceServicer, health_servicer: health.aio.HealthServicer
) -> AsyncIterator[str]:
    """Serve a ModelService and its health service; yield HOST:PORT."""
    server = grpc.aio.server()
    add_ModelServiceServicer_to_server(servicer, server)
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(grace=None)


@asynccontextmanager
async def open_channel(target: str) -> AsyncIterator[grpc.aio.Channel]:
    """Open a channel as the command does."""
    async with grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS) as channel:
        yield channel


@asynccontextmanager
async def open_in_process(
    servicer: ModelServiceServicer, health_servicer: health.aio.HealthServicer
) -> AsyncIterator[in_process.Channel]:
    """Open a channel without a wire, as the service does for its bridge."""
    channel = in_process.Channel(
        {
            SERVICE: handlers(add_ModelServiceServicer_to_server, servicer),
            health.SERVICE_NAME: handlers(
                health_pb2_grpc.add_HealthServicer_to_server, health_servicer
            ),
        }
    )
    yield channel
    await channel.close()


@asynccontextmanager
async def serve_http(app: ASGIApp) -> AsyncIterator[str]:
    """Serve an ASGI application with uvicorn; yield its base URL.

    The steps are those of `uvicorn.Server.serve` without its signal handlers and its ticks of
    100 ms. When the context is left, requests that run have a second to end, as the command gives
    them its time-out.
    """
    config = uvicorn.Config(app, lifespan="off", log_config=None, timeout_graceful_shutdown=1)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        await server.startup(sockets=[listener])
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            if server.server_state.tasks:
                await server.shutdown(sockets=[listener])
            for listening in server.servers:
                listening.close()
            for connection in list(server.server_state.connections):
                connection.shutdown()


def open_client(url: str) -> httpx.AsyncClient:
    """Open an HTTP client for loopback, which needs no proxies and loads no certificates."""
    return httpx.AsyncClient(base_url=url, trust_env=False, verify=False)


def free_port() -> int:
    """Find a port on which nothing listens now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
