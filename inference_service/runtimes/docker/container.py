"""What a container of ours carries, and whether it fits a launch."""

from __future__ import annotations

import hashlib
import json

from docker.models.containers import Container
from docker.types import DeviceRequest

from inference_service.capacity.claims import GpuShare
from inference_service.runtimes.base import Launch

LABEL = "inference-service"
PORT = 80  # inside the container
WEIGHTS = "/data"


def digest(launch: Launch) -> str:
    """A hash of all that would need a new container when it changes."""
    variables = {**launch.cpu_env, **launch.env, **{k: str(v) for k, v in launch.files.items()}}
    facts = [launch.image, sorted(variables.items()), launch.memory_bytes, launch.gpus]
    facts += [launch.gpu_need.memory_bytes, launch.gpu_need.count]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def fits(container: Container, launch: Launch) -> bool:
    return container.status == "running" and container.labels.get(f"{LABEL}.config") == digest(
        launch
    )


def request(gpus: GpuShare | None) -> DeviceRequest:
    which = {"count": -1} if gpus is None else {"device_ids": list(gpus.ids)}
    return DeviceRequest(capabilities=[["gpu"]], **which)


def joined(gpus: GpuShare | None) -> str:
    """The GPUs that a container has got by name, as its label tells them."""
    return ",".join(sorted(gpus.ids)) if gpus else ""


def gpus_of(container: Container) -> str:
    label: str = container.labels.get(f"{LABEL}.gpus", "")
    return label


def published(container: Container) -> int | None:
    """The port of 127.0.0.1 behind which the engine listens."""
    bound = container.ports.get(f"{PORT}/tcp")
    return int(bound[0]["HostPort"]) if bound else None
