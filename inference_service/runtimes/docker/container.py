"""A launch as a container: its configuration, and whether a container fits a launch.

The names, the labels and the digest are a contract with other versions of this service: by them a
service adopts the containers that an earlier version left running.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from docker import DockerClient
from docker.models.containers import Container
from docker.types import DeviceRequest, LogConfig, Mount

from inference_service.capacity.claims import GpuShare
from inference_service.runtimes import identity
from inference_service.runtimes.base import HUB_ENV, Launch

_LABEL = "inference-service"
_PORT = 80  # inside the container
_WEIGHTS = "/data"


@dataclass(frozen=True, slots=True)
class Recipe:
    """The recipe by which a service makes its containers; `service` is its name."""

    service: str
    volume: str
    has_gpu: bool

    def name(self, launch: Launch) -> str:
        """Return the name of the container of this launch."""
        return identity.container_name(self.service, launch.model_id)

    @property
    def own_label(self) -> dict[str, str]:
        """The label of every container of this service."""
        return {f"{_LABEL}.service": self.service}

    def labels(self, launch: Launch) -> dict[str, str]:
        """Return the labels by which the service finds the containers of a model."""
        return self.own_label | {f"{_LABEL}.model": launch.model_id}

    def gives_gpus(self, launch: Launch) -> bool:
        """Return whether the container gets GPUs: always for `all`, for `auto` if there are any."""
        return launch.gpus == "all" or (launch.gpus == "auto" and self.has_gpu)

    def configuration(self, launch: Launch, gpus: GpuShare | None, port: int) -> dict[str, Any]:
        """Return the arguments of the SDK's `containers.create`."""
        return {
            "image": launch.image,
            "name": self.name(launch),
            "labels": self.labels(launch)
            | {f"{_LABEL}.config": digest(launch), f"{_LABEL}.gpus": _joined(gpus)},
            "environment": self._environment(launch, gpus),
            "ports": {f"{_PORT}/tcp": ("127.0.0.1", port)},
            "volumes": {self.volume: {"bind": _WEIGHTS, "mode": "rw"}},
            "mounts": [
                Mount(_inside(path.name), str(path), type="bind", read_only=True)
                for path in launch.files.values()
            ],
            "mem_limit": launch.memory_bytes,
            "memswap_limit": launch.memory_bytes,  # no swap: it makes a model too slow
            "shm_size": "1g",  # between TGI's shards
            # No restart policy: the service decides when an engine starts again.
            "init": True,  # without it a process that has no handler ignores SIGTERM
            "security_opt": ["no-new-privileges"],
            "log_config": LogConfig(type="json-file", config={"max-size": "10m", "max-file": "2"}),
            "device_requests": [_request(gpus)] if self.gives_gpus(launch) else [],
        }

    def _environment(self, launch: Launch, gpus: GpuShare | None) -> dict[str, str]:
        host, port = launch.address_env
        env = {name: os.environ[name] for name in HUB_ENV if os.environ.get(name)}
        env |= {} if self.gives_gpus(launch) else launch.cpu_env
        if gpus is not None and launch.gpu_env is not None:
            # Rounded down: rounded up, the fraction could take memory that other models hold.
            fraction = math.floor(gpus.fraction * 1000) / 1000
            env |= zip(launch.gpu_env, (str(len(gpus.ids)), str(fraction)), strict=True)
        env |= {**launch.env, host: "0.0.0.0", port: str(_PORT)}
        return env | {variable: _inside(path.name) for variable, path in launch.files.items()}


def digest(launch: Launch) -> str:
    """Hash the facts of a launch that need a new container when they change."""
    variables = {**launch.cpu_env, **launch.env, **{k: str(v) for k, v in launch.files.items()}}
    facts = [launch.image, sorted(variables.items()), launch.memory_bytes, launch.gpus]
    facts += [launch.gpu_need.memory_bytes, launch.gpu_need.count]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def find(client: DockerClient, labels: Mapping[str, str]) -> list[Container]:
    """List the containers that carry these labels, whether they run or not."""
    wanted = [f"{key}={value}" for key, value in labels.items()]
    return client.containers.list(all=True, ignore_removed=True, filters={"label": wanted})


def model_id(container: Container) -> str:
    """Return the id of the model of a container, empty if it has none."""
    label: str = container.labels.get(f"{_LABEL}.model", "")
    return label


def fits(container: Container, launch: Launch) -> bool:
    """Return whether a container runs and was made from such a launch."""
    made_from = container.labels.get(f"{_LABEL}.config")
    return container.status == "running" and made_from == digest(launch)


def has_gpus(container: Container, gpus: GpuShare | None) -> bool:
    """Return whether a container was given exactly these GPUs by name."""
    return _gpu_label(container) == _joined(gpus)


def gpu_ids(container: Container) -> tuple[str, ...]:
    """Return the ids of the GPUs that a container was given by name."""
    return tuple(filter(None, _gpu_label(container).split(",")))


def published_port(container: Container) -> int | None:
    """Return the port of 127.0.0.1 at which the engine can be reached."""
    bound = container.ports.get(f"{_PORT}/tcp")
    return int(bound[0]["HostPort"]) if bound else None


def _inside(file_name: str) -> str:
    return f"/model/{file_name}"


def _request(gpus: GpuShare | None) -> DeviceRequest:
    which = {"count": -1} if gpus is None else {"device_ids": list(gpus.ids)}
    return DeviceRequest(capabilities=[["gpu"]], **which)


def _joined(gpus: GpuShare | None) -> str:
    return ",".join(sorted(gpus.ids)) if gpus else ""


def _gpu_label(container: Container) -> str:
    label: str = container.labels.get(f"{_LABEL}.gpus", "")
    return label
