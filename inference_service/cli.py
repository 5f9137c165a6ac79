"""The command `inference-service`."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import select
import signal
import sys
from contextlib import ExitStack
from dataclasses import asdict

from pydantic import ValidationError
from pydantic_settings import CliApp, SettingsError

from inference_service import __version__, streams
from inference_service.api import access
from inference_service.api.addresses import UNIX, BindError
from inference_service.api.listener import SERVICE
from inference_service.capacity.gpus import GpuError
from inference_service.errors import CatalogInvalid, NetworkUnusable, RuntimeUnavailable
from inference_service.lookout import Runtimes
from inference_service.printable import Formatter
from inference_service.runtimes.identity import NameTaken
from inference_service.server import Service, running
from inference_service.settings import Settings
from inference_service.signals import restore, stopping
from rest_bridge import environment, exposure
from rest_bridge.http.log import ACCESS

# Seconds for all that comes after the drain, each step of which has a limit of its own. A process
# that takes longer hangs, and is ended.
_LAST = 60.0


def main(arguments: list[str] | None = None, runtimes: Runtimes | None = None) -> None:
    """Serve until SIGINT or SIGTERM; a second signal cuts the requests that still run.

    SIGHUP reads the catalog again, unless it is due to a closed terminal, which ends the service.

    The exit code is 0 after one signal; 130 (SIGINT) or 143 (SIGTERM) when a second signal cut the
    requests; 1 when the service cannot start; 2 for bad settings. `runtimes` are by default those
    of the settings.
    """
    streams.prepare()
    restore()
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments == ["--version"]:
        print(f"inference-service {__version__}")
        return
    try:
        settings = CliApp.run(Settings, cli_args=arguments)
    except ValidationError as error:
        print(*environment.explain(Settings, error, arguments), sep="\n", file=sys.stderr)
        sys.exit(2)
    except SettingsError as error:
        print(f"inference-service: {error}", file=sys.stderr)
        sys.exit(2)
    handler = streams.Handler()
    handler.setFormatter(Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler])
    for package in ("inference_service", "rest_bridge"):  # and not of the libraries
        logging.getLogger(package).setLevel(level)
    if settings.access_log:
        _log_access()
    _raise_file_limit()
    for line in environment.unknown(Settings):
        streams.say(line, sys.stderr)
    faces = "gRPC and REST ask" if settings.rest else "gRPC asks"
    network = not settings.host.startswith(UNIX)
    if network and (warning := exposure.warning(settings.host, faces)):
        streams.say(f"inference-service: {warning}", sys.stderr)
    try:
        sys.exit(asyncio.run(_serve(settings, runtimes)))
    except CatalogInvalid as error:
        sys.exit(_mistakes(error))
    except (BindError, GpuError, NameTaken, NetworkUnusable) as error:
        sys.exit(f"inference-service: {error}")
    except RuntimeUnavailable as error:
        sys.exit(f"inference-service: {error.message}; {error.advice}")
    finally:
        streams.finish()


def _log_access() -> None:
    """Write the lines of calls and requests to standard output, whatever the level of others."""
    handler = streams.Handler(sys.stdout)
    handler.setFormatter(Formatter("%(asctime)s %(message)s"))
    for log in (access.log, ACCESS):
        log.setLevel(logging.INFO)
        log.addHandler(handler)
        log.propagate = False


def _raise_file_limit() -> None:
    """Raise the limit of open files.

    Each request has a connection to its engine, so the usual 1024 files are soon used up.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _serve(settings: Settings, runtimes: Runtimes | None) -> int:
    stop = asyncio.Event()
    code = 0
    terminal = _Terminal()
    loop = asyncio.get_running_loop()
    with ExitStack() as stack:
        async with running(settings, runtimes=runtimes) as service:

            def on_signal(number: int) -> None:
                nonlocal code
                if stop.is_set():
                    code = 128 + number
                    _tasks.add(loop.create_task(service.models.close(0)))
                stop.set()

            def on_hang_up() -> None:
                if terminal.hung_up():
                    on_signal(signal.SIGHUP)
                else:
                    _tasks.add(loop.create_task(_reload(service)))

            # The service's own objects live to the end. With 64 callers of REST, the collector
            # spent an eighth of the time on looking at them.
            gc.freeze()
            grace = settings.drain_timeout + _LAST
            # To the end of the service, and not only of this block.
            stack.enter_context(stopping(on_signal, on_signal, grace, _LAST))
            loop.add_signal_handler(signal.SIGHUP, on_hang_up)
            streams.say(_banner(service))
            await stop.wait()
            streams.say("stopping: waits for running requests; press Ctrl-C again to cut them")
    return code


_tasks: set[asyncio.Task[None]] = set()  # asyncio itself keeps no reference to a task


class _Terminal:
    """The terminal in which the service was started, if any.

    SIGHUP has two meanings: an operator wants the catalog to be read again, or the terminal was
    closed. Only in the second case does the terminal report that it is closed.
    """

    def __init__(self) -> None:
        self._files = [number for number in (0, 1, 2) if os.isatty(number)]

    def hung_up(self) -> bool:
        """Return whether the terminal was closed."""
        look = select.poll()
        for number in self._files:
            look.register(number, 0)
        return any(events & select.POLLHUP for _, events in look.poll(0))


async def _reload(service: Service) -> None:
    try:
        changes = await service.reload()
    except CatalogInvalid as error:
        streams.say(f"{_mistakes(error)}; the old catalog stays", sys.stderr)
        return
    parts = [f"{what} {' '.join(ids)}" for what, ids in asdict(changes).items() if ids]
    streams.say(f"catalog  {'; '.join(parts) or 'nothing has changed'}")


def _mistakes(error: CatalogInvalid) -> str:
    return "inference-service: " + "\n".join(error.mistakes)


_EXAMPLE = '{"model_id":"story-mini","prompt":"Once upon a time"}'


def _banner(service: Service) -> str:
    models = [model.id for model in service.models]
    target = service.target
    if target.startswith(UNIX):
        target = f"-unix {target.removeprefix(UNIX)}"
    call = f"grpcurl -plaintext -d '{_EXAMPLE}' {target} {SERVICE}/Generate"
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
