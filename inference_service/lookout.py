"""The runtimes of a service, and the lookout for a Docker daemon that is started later."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from inference_service.capacity import memory, nodes
from inference_service.capacity.gpus import GpuError
from inference_service.engines import kinds
from inference_service.errors import (
    LaunchError,
    NetworkUnusable,
    RuntimeUnavailable,
    ServiceError,
    ShuttingDown,
)
from inference_service.runtimes import identity
from inference_service.runtimes.base import Runtime
from inference_service.runtimes.docker import endpoint
from inference_service.runtimes.identity import NameTaken
from inference_service.runtimes.ports import Ports
from inference_service.runtimes.process import ProcessRuntime
from inference_service.runtimes.remote import RemoteRuntime
from inference_service.serving.placement import RuntimeChoice
from inference_service.settings import Settings

if TYPE_CHECKING:
    from inference_service.runtimes.docker.runtime import DockerRuntime

log = logging.getLogger(__name__)

INTERVAL = 30.0  # seconds between two looks for Docker
_COSTS = 10  # times as long as a look took, starts do not have Docker looked for again
_LAST = 5.0  # seconds for a look that goes on when the service ends

Found = Callable[[Runtime], Awaitable[None]]


@dataclass(slots=True)
class Runtimes:
    """The runtimes of a service by name, and the choice between them."""

    by_name: Mapping[str, Runtime]
    choice: RuntimeChoice


class Lookout:
    """The runtimes that the settings ask for, and that this machine has.

    Leaving the context closes them. With `auto`, a daemon that does not answer is looked for again
    while `watching`: each `interval` seconds, and by `look`. The models of a service that has
    several runtimes share the memory of `settings`, or what of this machine is usable.
    """

    def __init__(
        self, settings: Settings, ports: Ports | None = None, interval: float = INTERVAL
    ) -> None:
        self._settings = settings
        offset = identity.first_port(settings.service_name)
        self._ports = ports or Ports(*settings.port_range, offset=offset)
        self._interval = interval
        self._closing = AsyncExitStack()
        self._misses = False  # Docker, which is to be looked for again
        self._found: Found | None = None
        self._look: asyncio.Task[None] | None = None
        self._next = 0.0  # when starts may have it looked for again
        always: dict[str, Runtime] = {
            "process": ProcessRuntime(self._ports, nodes.local(settings.memory)),
            "url": RemoteRuntime(),
        }
        self.runtimes = Runtimes(always, RuntimeChoice("process", "it was asked for"))

    async def __aenter__(self) -> Runtimes:
        """Look for Docker, unless it is not wanted.

        Raises GpuError, NetworkUnusable, NameTaken when a service of this name uses the daemon, or
        RuntimeUnavailable when `runtime` is docker and no daemon answers.
        """
        if self._settings.runtime != "process":
            try:
                self._take_in(await self._docker(), "a Docker daemon answers")
            except NetworkUnusable:
                raise
            except RuntimeUnavailable as error:
                if self._settings.runtime == "docker":
                    raise
                self._misses = True
                self._fall_back(error.message)
        if "docker" not in self.runtimes.by_name:
            memory.warn(self._settings.memory)
        return self.runtimes

    async def __aexit__(self, *_: object) -> None:
        await self._closing.aclose()

    @asynccontextmanager
    async def watching(self, found: Found) -> AsyncGenerator[None]:
        """Look again and again, where Docker is wanted and missing; await `found` with it, once.

        A `found` that raises LaunchError or a ServiceError has the daemon looked for again.
        """
        if not self._misses:
            yield
            return
        self._found = found
        watch = asyncio.create_task(self._watch(), name="lookout for Docker")
        try:
            yield
        finally:
            self._found = None
            tasks = [task for task in (watch, self._look) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=_LAST)

    async def look(self) -> None:
        """Look now for a daemon that is missing. Never raises.

        All who wait for a look share it. One that was slow, as at an address that does not answer,
        is not repeated soon.
        """
        if self._found is None or not self._misses:
            return
        if self._look is None or self._look.done():
            if time.monotonic() < self._next:
                return
            self._look = asyncio.create_task(self._look_with(self._found), name="look for Docker")
        await asyncio.wait([self._look])

    async def _watch(self) -> None:
        while self._misses:
            await asyncio.sleep(self._interval)
            self._next = 0.0
            await self.look()

    async def _look_with(self, found: Found) -> None:
        begun = time.monotonic()
        try:
            docker = await self._docker()
            try:
                await found(docker)
            except BaseException:
                await docker.aclose()
                raise
            since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
            self._take_in(docker, f"a Docker daemon answers since {since}")
            log.warning(
                "Docker answers now, and gets models at their next start: %s",
                self.runtimes.choice.reason,
            )
        except ShuttingDown:
            pass
        except ServiceError as error:
            self._fall_back(error.message)
        except (GpuError, LaunchError, NameTaken) as error:
            self._fall_back(str(error))
        except Exception:  # a fault of this service must not end the looks
            log.exception("fault in the look for Docker")
        finally:
            self._next = time.monotonic() + _COSTS * (time.monotonic() - begun)

    async def _docker(self) -> DockerRuntime:
        """Connect to Docker, and claim the service's name there."""
        endpoint.look()
        # Imported here: the Docker SDK has 7 MB, which a service without Docker need not hold.
        from inference_service.runtimes.docker import runtime

        settings = self._settings
        docker = await runtime.connect(
            self._ports,
            service=settings.service_name,
            volume=settings.volume,
            pull_policy=settings.pull_policy,
            memory_bytes=settings.memory,
            keys=settings.state_path / f"keys-{settings.service_name}",
            gpu_limits=settings.gpu_limits,
            network=settings.docker_network,
        )
        try:
            await docker.claim.take()
        except BaseException:
            await docker.aclose()
            raise
        return docker

    def _take_in(self, docker: DockerRuntime, reason: str) -> None:
        self._misses = False
        self._closing.push_async_callback(docker.aclose)
        if self._settings.runtime == "docker":
            reason = "it was asked for"
        self.runtimes.by_name = {**self.runtimes.by_name, "docker": docker}
        self.runtimes.choice = RuntimeChoice("docker", f"{reason}; {docker.describe()}")

    def _fall_back(self, why: str) -> None:
        """Choose the runtime of processes, and say why in the log, once for each reason."""
        reason = f"{why}; Docker is looked for again each {self._interval:g} s"
        kind = kinds.KINDS.get(self._settings.engine)
        if kind is not None and kind.is_image:
            engine = self._settings.engine
            reason += f"; {engine} runs in Docker alone, so other engines run what they can"
        choice = RuntimeChoice("process", reason)
        if choice != self.runtimes.choice:
            log.warning(
                "models run as processes, and those that need an image do not start: %s", reason
            )
        self.runtimes.choice = choice
