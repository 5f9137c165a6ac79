"""Engines as containers of a Docker Engine on this machine.

Containers carry labels that say whose they are and what they were made from. One of ours that still
runs, and was made from the same, is taken over by the next service; any other of ours is removed
before the next start of its model. What does not carry our labels is never touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import math
import os
import socket
from collections.abc import AsyncGenerator, Mapping
from contextlib import ExitStack, aclosing, asynccontextmanager
from typing import Any, Literal

import docker
from docker.errors import APIError, ImageNotFound, NotFound
from docker.models.containers import Container
from docker.types import DeviceRequest, LogConfig, Mount
from docker.utils import parse_repository_tag

from inference_service.errors import LaunchError, RuntimeUnavailable, StopFailed
from inference_service.lifecycle import Progress
from inference_service.runtimes.base import HUB_ENV, Launch
from inference_service.runtimes.docker_calls import Calls
from inference_service.runtimes.docker_instance import DockerInstance
from inference_service.runtimes.ports import Ports
from inference_service.runtimes.pull_progress import PullProgress

log = logging.getLogger(__name__)

PullPolicy = Literal["missing", "always", "never"]

LABEL = "inference-service"
_PORT = 80  # inside the container
_WEIGHTS = "/data"


class DockerRuntime:
    """Runs `launch.image`. `service` tells this service's containers from another's."""

    name = "docker"

    def __init__(
        self,
        client: docker.DockerClient,
        ports: Ports,
        *,
        service: str,
        volume: str,
        pull_policy: PullPolicy,
        has_gpu: bool,
    ) -> None:
        self._client = client
        self._calls = Calls()
        self._ports = ports
        self._service = service
        self._volume = volume
        self._policy = pull_policy
        self._has_gpu = has_gpu
        self._leaving = False

    def describe(self) -> str:
        """What it has for engines, in a few words."""
        return "GPUs for those that want them" if self._has_gpu else "no NVIDIA runtime, so no GPU"

    async def pull(self, launch: Launch) -> AsyncGenerator[Progress]:
        """Pull the image, as the policy says."""
        if self._policy != "always" and await self._has(launch.image):
            return
        if self._policy == "never":
            raise LaunchError(f"there is no image {launch.image}, and `pull_policy` is never")
        progress = PullProgress(launch.image)
        events = self._calls.stream(
            self._client.api.pull, *_reference(launch.image), stream=True, decode=True
        )
        try:
            async with aclosing(events):
                async for event in events:
                    yield progress.feed(event)
        except APIError as error:
            raise LaunchError(_pull_failure(launch.image, error)) from None

    @asynccontextmanager
    async def run(self, launch: Launch) -> AsyncGenerator[DockerInstance]:
        """Run the container `launch.name`."""
        failed = False
        with ExitStack() as claims:
            try:
                container, port = await self._adopt(launch, claims) or await self._start(
                    launch, claims
                )
                instance = DockerInstance(container, launch, port)
                claims.callback(instance.leave)
                yield instance
            except Exception:
                failed = True
                raise
            finally:
                try:
                    if not (self._leaving and not failed):
                        await self._remove(launch, 0 if failed else launch.stop_grace)
                except (RuntimeUnavailable, LaunchError) as error:
                    if not failed:  # the first failure says more than this one
                        raise _not_removed(launch, error) from None

    async def survivors(self, launches: Mapping[str, Launch]) -> list[str]:
        """The models whose containers run and were made from what `launches` say."""
        fitting: list[str] = []
        for container in await self._ours({f"{LABEL}.service": self._service}):
            launch = launches.get(container.labels.get(f"{LABEL}.model", ""))
            if launch is not None and _fits(container, launch):
                fitting.append(launch.model_id)
            else:
                try:
                    await self._calls.call(_end, container, 0)
                except APIError as error:  # its name will tell, when its model is started
                    log.warning("container %s cannot be removed: %s", container.name, _said(error))
        return fitting

    def leave(self) -> None:
        """Let containers run on."""
        self._leaving = True

    async def aclose(self) -> None:
        """Close the connections to Docker."""
        await self._calls.close()
        self._client.close()

    async def _has(self, image: str) -> bool:
        try:
            await self._calls.call(self._client.images.get, image)
        except ImageNotFound:
            return False
        except APIError as error:
            raise LaunchError(_pull_failure(image, error)) from None
        return True

    async def _adopt(self, launch: Launch, claims: ExitStack) -> tuple[Container, int] | None:
        """The container of an earlier run, if it fits; any other of this model is removed."""
        for container in await self._ours(self._labels(launch)):
            if _fits(container, launch) and (port := _published(container)):
                claims.enter_context(self._ports.hold(port))
                return container, port
        await self._remove(launch)
        return None

    async def _ours(self, labels: Mapping[str, str]) -> list[Container]:
        """All containers that carry these labels, whether they run or not."""
        wanted = [f"{key}={value}" for key, value in labels.items()]
        list_all = self._client.containers.list
        try:
            return await self._calls.call(
                list_all, all=True, ignore_removed=True, filters={"label": wanted}
            )
        except APIError as error:
            raise LaunchError(_said(error)) from None

    async def _start(self, launch: Launch, claims: ExitStack) -> tuple[Container, int]:
        """Create and start the container on the first port that is free to the end."""
        taken: frozenset[int] = frozenset()
        while True:
            port = claims.enter_context(self._ports.claim(taken))
            try:
                container = await self._calls.call(self._create, launch, port)
                await self._calls.call(container.start)
            except APIError as error:
                if not _port_clash(error):
                    raise LaunchError(_start_failure(launch, error)) from None
                taken |= {port}  # somebody took it between the look and the start
                await self._remove(launch)
                continue
            return container, port

    def _create(self, launch: Launch, port: int) -> Container:
        gpus = (self._has_gpu and launch.gpus != "none") or launch.gpus == "all"
        environment, mounts = self._environment(launch, gpus)
        return self._client.containers.create(
            launch.image,
            name=launch.name,
            labels=self._labels(launch) | {f"{LABEL}.config": _digest(launch)},
            environment=environment,
            ports={f"{_PORT}/tcp": ("127.0.0.1", port)},
            volumes={self._volume: {"bind": _WEIGHTS, "mode": "rw"}},
            mounts=mounts,
            mem_limit=launch.memory_bytes,
            memswap_limit=launch.memory_bytes,  # a model that swaps answers nobody
            shm_size="1g",  # between TGI's shards
            # No restart policy: the supervisor decides.
            init=True,  # without it a process that has no handler ignores SIGTERM
            security_opt=["no-new-privileges"],
            log_config=LogConfig(type="json-file", config={"max-size": "10m", "max-file": "2"}),
            device_requests=[DeviceRequest(count=-1, capabilities=[["gpu"]])] if gpus else [],
        )

    def _environment(self, launch: Launch, gpus: bool) -> tuple[dict[str, str], list[Mount]]:
        """The environment, and the mounts of the files that it names."""
        host, port = launch.address_env
        env = {name: os.environ[name] for name in HUB_ENV if os.environ.get(name)}
        env |= {} if gpus else launch.cpu_env
        env |= {**launch.env, host: "0.0.0.0", port: str(_PORT)}
        mounts = []
        for name, path in launch.files.items():
            env[name] = f"/model/{path.name}"
            mounts.append(Mount(env[name], str(path), type="bind", read_only=True))
        return env, mounts

    def _labels(self, launch: Launch) -> dict[str, str]:
        return {f"{LABEL}.service": self._service, f"{LABEL}.model": launch.model_id}

    async def _remove(self, launch: Launch, grace: float | None = None) -> None:
        """Remove what carries the labels of this model, stopping it first when given a grace."""
        wanted = [f"{key}={value}" for key, value in self._labels(launch).items()]

        def remove() -> None:  # in one call, which a cancellation cannot cut in two
            list_all = self._client.containers.list
            for container in list_all(all=True, ignore_removed=True, filters={"label": wanted}):
                _end(container, grace)

        try:
            await self._calls.call(remove)
        except APIError as error:
            raise LaunchError(_said(error)) from None


def _not_removed(launch: Launch, error: Exception) -> StopFailed:
    return StopFailed(
        f"the container {launch.name} could not be removed: {error}; remove it with "
        f"`docker rm -f {launch.name}`",
        metadata={"model_id": launch.model_id},
    )


def _end(container: Container, grace: float | None) -> None:
    """Stop and remove; one that is gone already is what was wanted."""
    try:
        if grace is not None:
            container.stop(timeout=math.ceil(grace))
        container.remove(force=True, v=True)
    except NotFound:
        return
    except APIError as error:
        if error.status_code != 409:  # it is being removed already
            raise
        with contextlib.suppress(NotFound):
            container.wait(condition="removed")


def _digest(launch: Launch) -> str:
    """A hash of all that would need a new container when it changes."""
    variables = {**launch.cpu_env, **launch.env, **{k: str(v) for k, v in launch.files.items()}}
    facts = [launch.image, sorted(variables.items()), launch.memory_bytes, launch.gpus]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _fits(container: Container, launch: Launch) -> bool:
    return container.status == "running" and container.labels.get(f"{LABEL}.config") == _digest(
        launch
    )


def _published(container: Container) -> int | None:
    """The port of 127.0.0.1 behind which the engine listens."""
    bound = container.ports.get(f"{_PORT}/tcp")
    return int(bound[0]["HostPort"]) if bound else None


def _reference(image: str) -> tuple[str, str]:
    """Name and tag; without a tag `latest`, as Docker's own client does."""
    name, _, digest = image.partition("@")
    if digest:
        return name, digest
    repository, tag = parse_repository_tag(image)
    return repository, tag or "latest"


def _said(error: APIError) -> str:
    return str(error.explanation or error).strip()


def _port_clash(error: APIError) -> bool:
    said = _said(error)
    return "port is already allocated" in said or "address already in use" in said


def _pull_failure(image: str, error: APIError) -> str:
    hint = "; `make image` builds it" if "inference-service/llamacpp" in image else ""
    return f"the image {image} could not be pulled: {_said(error)}{hint}"


def _start_failure(launch: Launch, error: APIError) -> str:
    said = _said(error)
    if error.status_code == 409 and "name" in said:
        return (
            f"a container named {launch.name} exists that is not this service's; remove it with "
            f"`docker rm -f {launch.name}`, or rename it"
        )
    if isinstance(error, ImageNotFound):
        return f"there is no image {launch.image}"
    return said


async def connect(
    ports: Ports, *, service: str, volume: str, pull_policy: PullPolicy
) -> DockerRuntime:
    """The runtime on the Docker Engine of DOCKER_HOST. Raises RuntimeUnavailable."""
    endpoint = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    calls = Calls()
    try:
        client, info = await asyncio.wait_for(calls.call(_open, endpoint), 10)
    except (APIError, RuntimeUnavailable, TimeoutError) as error:
        cause = error.metadata["cause"] if isinstance(error, RuntimeUnavailable) else str(error)
        raise RuntimeUnavailable(
            f"no Docker Engine answers at {endpoint} ({cause or 'within 10 s'})"
        ) from None
    finally:
        await calls.close()
    return DockerRuntime(
        client,
        ports,
        service=service,
        volume=volume,
        pull_policy=pull_policy,
        has_gpu="nvidia" in info.get("Runtimes", {}),
    )


def _open(endpoint: str) -> tuple[docker.DockerClient, dict[str, Any]]:
    scheme, _, path = endpoint.partition("://")
    if scheme == "unix":  # the SDK leaves sockets open when nobody is there
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(5)
            probe.connect(path)
    client = docker.from_env(timeout=5)
    info = client.info()
    client.api.timeout = 60
    return client, info
