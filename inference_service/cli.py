"""The command `inference-service`."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import sys

from pydantic import ValidationError
from pydantic_settings import CliApp, SettingsError

from inference_service import __version__
from inference_service.catalog import CatalogError
from inference_service.errors import RuntimeUnavailable
from inference_service.gpus import GpuError
from inference_service.server import SERVICE, BindError, Service, running
from inference_service.settings import Settings


def main(arguments: list[str] | None = None) -> None:
    """Serve until SIGINT or SIGTERM; a second one cuts the requests that still run.

    Exit code 0 after a signal, 130 (SIGINT) or 143 (SIGTERM) when a second one cut it short, 1 when
    the service cannot start, 2 for bad settings.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments == ["--version"]:
        print(f"inference-service {__version__}")
        return
    try:
        settings = CliApp.run(Settings, cli_args=arguments)
    except ValidationError as error:
        print(*map(_explain, error.errors()), sep="\n", file=sys.stderr)
        sys.exit(2)
    except SettingsError as error:
        print(f"inference-service: {error}", file=sys.stderr)
        sys.exit(2)
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    _raise_file_limit()
    try:
        sys.exit(asyncio.run(_serve(settings)))
    except (CatalogError, BindError, GpuError) as error:
        sys.exit(f"inference-service: {error}")
    except RuntimeUnavailable as error:
        sys.exit(f"inference-service: {error.message}; start it, or use --runtime process")


def _raise_file_limit() -> None:
    """Each request has a connection to its engine: the usual 1024 files are soon used up."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _serve(settings: Settings) -> int:
    stop = asyncio.Event()
    code = 0
    loop = asyncio.get_running_loop()
    async with running(settings) as service:

        def on_signal(name: signal.Signals) -> None:
            nonlocal code
            if stop.is_set():
                code = 128 + name
                _cuts.add(loop.create_task(service.manager.close(0)))
            stop.set()

        for name in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(name, on_signal, name)
        print(_banner(service), flush=True)
        await stop.wait()
        print("stopping: waits for running requests; press Ctrl-C again to cut them", flush=True)
    return code


_cuts: set[asyncio.Task[None]] = set()  # asyncio itself keeps no reference to a task


_EXAMPLE = '{"model_id":"story-mini","prompt":"Once upon a time"}'


def _banner(service: Service) -> str:
    models = [model.spec.id for model in service.manager.models()]
    call = f"grpcurl -plaintext -d '{_EXAMPLE}' {service.target} {SERVICE}/Generate"
    lines = [
        f"inference-service {__version__}",
        f"runtime  {service.choice.name}: {service.choice.reason}",
        f"models   {' '.join(models)}",
        f"gRPC     {service.target}",
        f"  {call}",
    ]
    if (url := service.rest_url) is not None:
        post = f"curl -s {url}/generate -H 'Content-Type: application/json' -d '{_EXAMPLE}'"
        lines += [f"REST     {url}   (documentation: {url}/docs)", f"  {post}"]
    return "\n".join(lines)


def _explain(problem: object) -> str:
    assert isinstance(problem, dict)
    flag = "-".join(str(part) for part in problem["loc"]).replace("_", "-")
    message = problem["msg"].removeprefix("Value error, ")
    return f"inference-service: --{flag}: {message}, not {problem['input']!r}"
