"""The command `rest-bridge`."""

import asyncio
import contextlib
import gc
import logging
import resource
import socket
import sys

import grpc.aio
from pydantic import ValidationError
from pydantic_settings import CliApp, SettingsError

from inference_service import streams
from inference_service.printable import Formatter
from inference_service.signals import restore, stopping
from rest_bridge import environment, exposure
from rest_bridge.app import create_app, front
from rest_bridge.channel import OPTIONS
from rest_bridge.http import Limits, Server
from rest_bridge.http.listener import bind
from rest_bridge.http.log import ACCESS, LOG
from rest_bridge.remote import RemoteService
from rest_bridge.settings import Settings


def main(arguments: list[str] | None = None) -> None:
    """Serve until a signal to stop. `arguments` defaults to those of the process."""
    streams.prepare()
    restore()
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        settings = CliApp.run(Settings, cli_args=arguments)
    except ValidationError as error:
        print(*environment.explain(Settings, error, arguments), sep="\n", file=sys.stderr)
        sys.exit(2)
    except SettingsError as error:
        print(f"rest-bridge: {error}", file=sys.stderr)
        sys.exit(2)
    for line in environment.unknown(Settings):
        streams.say(line, sys.stderr)
    if warning := exposure.warning(settings.host, "REST asks"):
        streams.say(f"rest-bridge: {warning}", sys.stderr)
    try:
        sockets = bind(settings.host, settings.port)
    except OSError as error:
        cause = error.strerror or error
        sys.exit(f"rest-bridge: cannot listen on {settings.host}, port {settings.port}: {cause}")
    _log()
    _raise_file_limit()
    with contextlib.suppress(KeyboardInterrupt):  # before the server listens to signals
        asyncio.run(serve(settings, sockets))
    streams.finish()


async def serve(settings: Settings, sockets: list[socket.socket]) -> None:
    """Connect to the service and serve HTTP. The service may start later than the bridge."""
    async with grpc.aio.insecure_channel(settings.target, options=OPTIONS) as channel:
        app = create_app(RemoteService(channel, settings.target), settings)
        limits = Limits(idle_seconds=settings.idle_connection_seconds)
        server = Server(app, limits, access_log=settings.access_log, route=front(app).route)
        stop = asyncio.Event()
        grace = settings.shutdown_timeout_seconds
        server.start(sockets)
        gc.freeze()  # the objects of the start-up stay, so the collector need not visit them again
        with stopping(lambda _: stop.set(), lambda _: server.hurry(), grace, last=5):
            for sock in sockets:
                host, port = sock.getsockname()[:2]
                LOG.info("running on http://%s:%d", f"[{host}]" if ":" in host else host, port)
            await stop.wait()
            await server.close(grace)


def _log() -> None:
    """Write log lines to standard error, and those of requests to standard output."""
    errors, requests = streams.Handler(), streams.Handler(sys.stdout)
    errors.setFormatter(Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    requests.setFormatter(Formatter("%(asctime)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[errors])
    ACCESS.addHandler(requests)
    ACCESS.propagate = False


def _raise_file_limit() -> None:
    """Raise the limit of open files, for each client has one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
