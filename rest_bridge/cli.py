"""The command `rest-bridge`."""

import asyncio
import contextlib
import gc
import sys

import grpc.aio
import uvicorn
from pydantic import ValidationError
from pydantic_settings import CliApp

from rest_bridge import exposure
from rest_bridge.app import create_app
from rest_bridge.remote import RemoteService
from rest_bridge.server import Server
from rest_bridge.settings import Settings

CHANNEL_OPTIONS = [
    # The default is 4 MiB. A text can be longer, for it can begin with a prompt of 4 MiB.
    ("grpc.max_receive_message_length", -1),
    # By default the window grows with the pace of the service, and the bridge then held up to 35 MB
    # of text for a client that reads slowly.
    ("grpc.http2.bdp_probe", 0),
    # By default the channel waits up to two minutes before it connects again to the service.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A proxy in the environment is meant for the internet, and cannot reach the service.
    ("grpc.enable_http_proxy", 0),
]


def main(arguments: list[str] | None = None) -> None:
    """Serve until a signal to stop. `arguments` defaults to those of the process."""
    try:
        settings = CliApp.run(Settings, cli_args=arguments)
    except ValidationError as error:
        for problem in error.errors():
            option = str(problem["loc"][0]).replace("_", "-")
            message = problem["msg"].removeprefix("Value error, ")
            print(f"rest-bridge: --{option}: {message}", file=sys.stderr)
        sys.exit(2)
    if warning := exposure.warning(settings.host, "REST asks"):
        print(f"rest-bridge: {warning}", file=sys.stderr)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(settings))


async def serve(settings: Settings) -> None:
    """Connect to the service and serve HTTP. The service may start later than the bridge."""
    async with grpc.aio.insecure_channel(settings.target, options=CHANNEL_OPTIONS) as channel:
        config = uvicorn.Config(
            create_app(RemoteService(channel, settings.target), settings),
            host=settings.host,
            port=settings.port,
            access_log=settings.access_log,
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            timeout_graceful_shutdown=settings.shutdown_timeout_seconds,
        )
        server = Server(config)
        gc.freeze()  # the objects of the start-up stay, so the collector need not visit them again
        await server.serve()
