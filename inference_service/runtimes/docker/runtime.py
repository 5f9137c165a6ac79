"""Engines as containers of a Docker daemon.

Labels on a container name its service and its run, and hold a digest of its command. The next
service adopts a container of its own that still runs and has the right digest; any other container
of its own is removed before the next run with that key. Containers of others are never touched.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import ExitStack, aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from docker.errors import APIError
from docker.models.containers import Container
from docker.types import Mount

from inference_service.capacity import gpus
from inference_service.capacity.claims import GpuShare
from inference_service.capacity.gpus import Gpu
from inference_service.capacity.nodes import LOCAL, Node
from inference_service.errors import LaunchError, RuntimeUnavailable, StopFailed, Unlaunchable
from inference_service.key import Key
from inference_service.lifecycle import Progress
from inference_service.runtimes.command import Command, Launch, Seat
from inference_service.runtimes.completion import completed
from inference_service.runtimes.docker import connection as connections
from inference_service.runtimes.docker import gpu_access, mounts, networks, refusal, resources
from inference_service.runtimes.docker.calls import explanation
from inference_service.runtimes.docker.claim import Claim
from inference_service.runtimes.docker.connection import Connection
from inference_service.runtimes.docker.container import (
    PORT,
    Recipe,
    files_archive,
    find,
    fits,
    gpu_ids,
    has_gpus,
    published_port,
    run_key,
)
from inference_service.runtimes.docker.gpu_access import GpuAccess
from inference_service.runtimes.docker.images import Images, PullPolicy
from inference_service.runtimes.docker.instance import RunningContainer
from inference_service.runtimes.docker.keys import Keys
from inference_service.runtimes.docker.removal import PendingRemovals, remove, remove_all
from inference_service.runtimes.docker.ways import Target
from inference_service.runtimes.ports import Ports

log = logging.getLogger(__name__)

_ANY = Node(LOCAL, 1 << 62)  # a machine whose memory is not counted


class DockerRuntime:
    """The runtime of containers: each runs `command.image`.

    The name `service` separates the containers of this service from those of others. Without the
    `claim` on it, which the lookout takes, none is started or removed. `daemon_id` is the same for
    all services that use this daemon, at whatever address; see `identity.alone`.
    """

    name = "docker"
    creates = "starting the container"
    patience = 10.0

    def __init__(
        self,
        connection: Connection,
        ports: Ports,
        *,
        daemon_id: str,
        service: str,
        volume: str,
        pull_policy: PullPolicy,
        has_gpu: bool,
        keys: Path,
        node: Node = _ANY,
        gpu_access: GpuAccess | None = None,
        removal_interval: float = 5.0,  # seconds between two attempts to remove a container
    ) -> None:
        self.nodes = (node,)
        self._connection = connection
        self._client, self._calls = connection.client, connection.calls
        self._reach = connection.reach
        self._ports = ports
        self.seat = Seat("0.0.0.0", in_container=True, has_gpu=has_gpu)
        self._recipe = Recipe(service, volume, gpu_access or GpuAccess())
        self._keys = Keys(keys)
        self._images = Images(self._client, self._calls, pull_policy)
        self._leaving = False
        self._pending = PendingRemovals(removal_interval)
        self.claim = Claim(self._client, service, daemon_id)

    def describe(self) -> str:
        """Describe the daemon and the GPUs that engines can get, in a few words."""
        has_gpu = self.seat.has_gpu
        given = "GPUs for those that want them" if has_gpu else "it gives no NVIDIA GPUs"
        return f"{self._connection.endpoint}; {given}"

    def container_name(self, key: Key) -> str:
        return self._recipe.name(key)

    async def pull(self, command: Command) -> AsyncGenerator[Progress]:
        if not command.image:
            raise Unlaunchable(f"{command.name} has no image, and runs as a process only")
        async with aclosing(self._images.pull(command.image)) as steps:
            async for progress in steps:
                yield progress

    @asynccontextmanager
    async def run(
        self, launch: Launch, gpus: GpuShare | None = None
    ) -> AsyncGenerator[RunningContainer]:
        key = launch.key
        await self._require_name()
        grace, failed, sure = launch.command(self.seat).stop_grace, False, False
        with ExitStack() as held:
            try:
                await self._pending.cancel(key)
                container, port, command = await self._adopt(launch, gpus, held) or (
                    await self._start(launch, gpus, held)
                )
                way = self._reach.way(Target(container, command.port, port), self._calls)
                running = RunningContainer(container, command, port, self._calls, way)
                held.callback(running.leave)
                sure = True
                yield running
            except Exception as error:
                failed = True
                sure = sure or isinstance(error, LaunchError)
                raise
            finally:
                if failed or not self._leaving:
                    await self._remove_or_retry(key, grace, failed, sure)

    def removal_pending(self, key: Key) -> bool:
        return key in self._pending

    async def survivors(self, commands: Mapping[str, Command]) -> dict[Key, tuple[str, ...]]:
        await self._require_name()
        fitting: dict[Key, tuple[str, ...]] = {}
        for container in await self._ours(self._recipe.own_label):
            run = run_key(container)
            command = commands.get(run.model_id) if run else None
            fit = command is not None and fits(container, command)
            if run is not None and fit and self._keys.known(run) is not None:
                fitting[run] = gpu_ids(container)
            else:
                await self._discard(container)
        return fitting

    def leave(self) -> None:
        self._leaving = True

    def hurry(self) -> None:
        self._calls.hurry()
        self.claim.hurry()

    async def aclose(self) -> None:
        await self._pending.cancel_all()
        await self.claim.let_go()
        await self._connection.close()

    async def _adopt(
        self, launch: Launch, gpus: GpuShare | None, held: ExitStack
    ) -> tuple[Container, int, Command] | None:
        """Return a container that fits, with its port and command; else remove any of the run."""
        secret = self._keys.known(launch.key)
        if secret is not None:
            command = launch.command(self.seat.taken(PORT, gpus, secret))
            empty = launch.command(self.seat)
            for container in await self._ours(self._recipe.labels(launch.key)):
                same = fits(container, empty) and has_gpus(container, gpus)
                port = published_port(container, command.port, self._reach.publish)
                if same and port and networks.address(container, self._reach.network):
                    held.enter_context(self._ports.hold(port))
                    return container, port, command
        await self._remove(launch.key)
        return None

    async def _ours(self, labels: Mapping[str, str]) -> list[Container]:
        try:
            return await self._calls.call(find, self._client, labels)
        except APIError as error:
            raise LaunchError(explanation(error)) from None

    async def _discard(self, container: Container) -> None:
        try:
            await self._calls.call(remove, container, 0)
        except APIError as error:  # the next start of its model tries again
            log.warning("container %s cannot be removed: %s", container.name, explanation(error))

    async def _start(
        self, launch: Launch, gpus: GpuShare | None, held: ExitStack
    ) -> tuple[Container, int, Command]:
        """Create and start the container, on the next port where another program has the first."""
        create, key = self._client.containers.create, launch.key
        taken: frozenset[int] = frozenset()
        while True:
            port = held.enter_context(self._ports.claim(taken))
            seat = self.seat.taken(PORT, gpus, self._keys.new(key))
            command, empty = launch.command(seat), launch.command(self.seat)
            configuration = self._recipe.configuration(key, command, empty, seat, port)
            configuration |= self._place(configuration["mounts"], command.port, port)
            try:
                container: Container = await self._calls.call(create, **configuration)
                if (archive := files_archive(command)) is not None:
                    await self._calls.call(container.put_archive, "/", archive)
                await self._calls.call(container.start)
                await self._calls.call(container.reload)  # it has its address now
                self._look_at_limit(container)
            except APIError as error:
                if not refusal.is_of_port(error):
                    raise refusal.error(error, command, self.container_name(key)) from None
                taken |= {port}  # another program took it after it was found free
                await self._remove(key)
                continue
            return container, port, command

    def _look_at_limit(self, container: Container) -> None:
        """Warn of a container without the limit that it was to have, as podman makes one."""
        if not container.attrs["HostConfig"].get("Memory"):
            log.warning("%s has no memory limit: %s", container.name, resources.NO_LIMITS)

    async def _require_name(self) -> None:
        """Raise LaunchError where another service has the name by now."""
        if (refusal := await self.claim.refusal()) is not None:
            raise LaunchError(str(refusal))

    def _place(self, files: list[Mount], port: int, published: int) -> dict[str, Any]:
        """Return the options of a container that differ by where the daemon is."""
        options: dict[str, Any] = {
            "ports": {f"{port}/tcp": (self._reach.publish, published)},
            "mounts": mounts.outside(files, self._connection.own),
        }
        if self._reach.network != networks.BRIDGE:
            options["network"] = self._reach.network
        return options

    async def _remove_or_retry(self, key: Key, grace: float, failed: bool, sure: bool) -> None:
        """Remove the container that a run leaves; if that fails, retry it in the background.

        Unless it is `sure` what the run has made, look once more later: a daemon that hung can
        still make the container that nobody waits for any more.
        """
        removal = asyncio.create_task(self._remove(key, 0 if failed else grace))
        name = self.container_name(key)
        try:
            await completed(removal)
        except (RuntimeUnavailable, LaunchError) as error:
            if not failed:  # else the failure of the run says more than this one
                raise StopFailed(key.model_id, name, error) from None
        finally:
            fails = not removal.done() or removal.cancelled() or removal.exception() is not None
            if fails or not sure:
                attempt = partial(self._remove, key, grace)
                self._pending.add(key, name, attempt, gone=not fails, sure=sure)

    async def _remove(self, key: Key, grace: float | None = None) -> None:
        """Remove all containers of this run, after a stop where there is a grace.

        Where another service has the name by now, they are left to it.
        """
        if await self.claim.refusal() is not None:
            return
        ended = threading.Event()
        what = (self._client, self._recipe.labels(key), grace, ended.is_set)
        try:
            await self._calls.call(remove_all, *what, takes=grace or 0.0)
        except APIError as error:
            raise LaunchError(explanation(error)) from None
        finally:
            ended.set()
        self._keys.forget(key)


async def connect(
    ports: Ports,
    *,
    service: str,
    volume: str,
    pull_policy: PullPolicy,
    memory_bytes: int | None,
    keys: Path,
    gpu_limits: Sequence[int] = (),
    network: str | None = None,
) -> DockerRuntime:
    """Connect to the daemon at the address of `endpoint`, and look for GPUs.

    `memory_bytes` is the setting for the memory of all engines; `keys` is the folder for their
    keys; `gpu_limits` are those of `gpus.find`; `network` is the one that engines join.
    Raises RuntimeUnavailable, or GpuError.
    """
    connection = await connections.connect(network)
    try:
        found = await gpus.find(gpu_limits, driver=connection.here)
    except BaseException:
        await connection.close()
        raise
    access = await _gpu_access(connection, found)
    info = connection.info
    resources.warn_of_missing_limits(info)
    return DockerRuntime(
        connection,
        ports,
        daemon_id=f"{info.get('ID')} {info.get('DockerRootDir')}",
        service=service,
        volume=volume,
        pull_policy=pull_policy,
        keys=keys,
        node=resources.node(info, found, memory_bytes, here=connection.here),
        has_gpu=access is not None,
        gpu_access=access,
    )


async def _gpu_access(connection: Connection, found: Sequence[Gpu]) -> GpuAccess | None:
    known = (connection.client, connection.info, found)
    try:
        return await connection.calls.call(gpu_access.find, *known, here=connection.here)
    except (APIError, RuntimeUnavailable) as error:
        log.warning("whether Docker gives GPUs could not be found, so engines get none: %s", error)
        return None
