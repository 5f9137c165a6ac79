"""A command as a container: its configuration, and whether a container fits a command.

The names, the labels and the digest are a contract with other versions of this service: by them a
service adopts the containers that an earlier version left running.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice, starmap
from pathlib import Path
from typing import Any

from docker import DockerClient
from docker.models.containers import Container
from docker.types import LogConfig, Mount, Ulimit

from inference_service.capacity.claims import GpuShare
from inference_service.key import Key
from inference_service.runtimes import identity
from inference_service.runtimes.command import Command, Seat
from inference_service.runtimes.docker import archive
from inference_service.runtimes.docker.gpu_access import GpuAccess
from inference_service.runtimes.environment import TOKEN
from inference_service.runtimes.network import has_proxy, network

PORT = 80  # inside the container, where its command names no other

_LABEL = "inference-service"
_WEIGHTS = "/data"
_TOKEN_FILE = "run/inference-service/hf-token"  # in the root of a container
_FORMAT = 3  # of the digest: engines of services with another format are not adopted

# Docker lets everybody listen at the ports below 1024 in a container, podman only who may.
_PORTS_FOR_ALL = {"net.ipv4.ip_unprivileged_port_start": "0"}
_MOST_FILES = 1000  # of a folder that is mounted, whose rights are looked at


@dataclass(frozen=True, slots=True)
class Recipe:
    """The recipe by which a service makes its containers; `service` is its name."""

    service: str
    volume: str
    gpus: GpuAccess = field(default_factory=GpuAccess)

    def name(self, key: Key) -> str:
        """Return the name of the container of this run."""
        return identity.container_name(self.service, key)

    @property
    def own_label(self) -> dict[str, str]:
        """The label of every container of this service."""
        return {f"{_LABEL}.service": self.service}

    def labels(self, key: Key) -> dict[str, str]:
        """Return the labels by which the service finds the container of a run."""
        labels = {f"{_LABEL}.model": key.model_id, f"{_LABEL}.run": str(key.number)}
        return self.own_label | labels

    def configuration(
        self, key: Key, command: Command, empty: Command, seat: Seat, port: int
    ) -> dict[str, Any]:
        """Return the arguments of the SDK's `containers.create`.

        `empty` is the command for an empty seat, which makes the digest. `port` is that of
        127.0.0.1.
        """
        needs, options = command.needs, command.needs.container
        own = network(os.environ).variables
        environment = {**own, **_hub(command), **command.env, **command.secrets}
        device_requests = [self.gpus.request(seat.gpus)] if needs.gpu else []
        return {
            "image": command.image,
            "command": list(command.args),
            "name": self.name(key),
            "labels": self.labels(key)
            | {f"{_LABEL}.config": digest(empty), f"{_LABEL}.seat": _written(seat)},
            "environment": environment,
            # Else the SDK adds those of ~/.docker/config.json, before these.
            "use_config_proxy": not has_proxy(environment),
            "ports": {f"{command.port}/tcp": ("127.0.0.1", port)},
            "volumes": {
                self.volume: {"bind": _WEIGHTS, "mode": "rw" if command.writes_weights else "ro"}
            },
            "mounts": [
                Mount(mount.target, str(mount.source), type="bind", read_only=True)
                for mount in command.mounts
            ],
            "mem_limit": needs.memory_bytes,
            "memswap_limit": needs.memory_bytes,  # no swap: it makes a model too slow
            "shm_size": options.shm_size,
            "ipc_mode": options.ipc,
            "devices": [f"{device}:{device}" for device in options.devices],
            "group_add": list(options.groups),
            "cap_drop": ["ALL"],
            "cap_add": _capabilities(command),
            "pids_limit": options.pids_limit,
            "sysctls": _PORTS_FOR_ALL,
            # No core dumps: they would have the prompts, and the token of the hub.
            "ulimits": [_ulimit("core", 0), *starmap(_ulimit, options.ulimits.items())],
            # No restart policy: the service decides when an engine starts again.
            "init": True,  # without it a process that has no handler ignores SIGTERM
            "security_opt": ["no-new-privileges", *_seccomp(options.seccomp)],
            "log_config": LogConfig(type="json-file", config={"max-size": "10m", "max-file": "2"}),
            "device_requests": device_requests,
        }


def _hub(command: Command) -> dict[str, str]:
    """Return the variables of the hub: the file of the token, where the engine reads one."""
    hub = dict(command.hub)
    if command.reads_token_file and hub.pop(TOKEN, None) is not None:
        hub["HF_TOKEN_PATH"] = f"/{_TOKEN_FILE}"
    return hub


def files_archive(command: Command) -> bytes | None:
    """Return the token and the certificates, for the container's root; None without any.

    Unlike a variable, a file does not stand in `docker inspect`. Unlike a mount, it needs no folder
    that the daemon can see. It is readable for all, because the engine may not run as root.
    """
    files = network(os.environ).files
    if command.reads_token_file and (token := command.hub.get(TOKEN)) is not None:
        files[_TOKEN_FILE] = token.encode()
    return archive.of(files, 0o444) if files else None


def digest(command: Command) -> str:
    """Hash the facts of a command that need a new container when they change.

    The command is that of an empty seat, so that no port and no GPU is among the facts.
    """
    needs = command.needs
    facts = {
        "image": command.image,
        "args": command.args,
        "env": sorted(command.env.items()),
        "mounts": [(str(mount.source), mount.target) for mount in command.mounts],
        "writes_weights": command.writes_weights,
        "port": command.port,
        "memory": needs.memory_bytes,
        "gpu": needs.gpu and asdict(needs.gpu),
        "container": needs.container.model_dump(mode="json"),
    }
    text = json.dumps(facts, sort_keys=True)
    return f"{_FORMAT}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def find(client: DockerClient, labels: Mapping[str, str]) -> list[Container]:
    """List the containers that carry these labels, whether they run or not."""
    wanted = [f"{key}={value}" for key, value in labels.items()]
    return client.containers.list(all=True, ignore_removed=True, filters={"label": wanted})


def run_key(container: Container) -> Key | None:
    """Return the key of a container's run; None where its labels name none."""
    labels = container.labels
    number = labels.get(f"{_LABEL}.run", "1")
    model_id: str = labels.get(f"{_LABEL}.model", "")
    return Key(model_id, int(number)) if model_id and number.isdecimal() else None


def fits(container: Container, empty: Command) -> bool:
    """Return whether a container runs and was made from this command for an empty seat."""
    made_from = container.labels.get(f"{_LABEL}.config")
    return container.status == "running" and made_from == digest(empty)


def has_gpus(container: Container, gpus: GpuShare | None) -> bool:
    """Return whether a container was given exactly these GPUs by name."""
    return gpu_ids(container) == _ids(gpus)


def gpu_ids(container: Container) -> tuple[str, ...]:
    """Return the ids of the GPUs that a container was given by name."""
    try:
        return tuple(json.loads(container.labels[f"{_LABEL}.seat"])["gpus"])
    except (KeyError, TypeError, ValueError):
        return ()


def published_port(container: Container, port: int, host: str) -> int | None:
    """Return the port at an address of the daemon's machine that leads to one of the container."""
    bound = container.ports.get(f"{port}/tcp") or ()
    return next((int(each["HostPort"]) for each in bound if each["HostIp"] == host), None)


def _capabilities(command: Command) -> list[str]:
    """Return the capabilities of the entry, and what root needs to read the files of others.

    Without it, root in a container reads no file that its owner keeps to himself. Nobody but root
    has it of that: an image with another user reads what all may read.
    """
    wanted = set(command.needs.container.cap_add)
    if any(_is_private(mount.source) for mount in command.mounts):
        wanted.add("DAC_OVERRIDE")
    return sorted(wanted)


def _is_private(path: Path) -> bool:
    """Return whether a file, or one in a folder, is not for all to read.

    One that is not here, because the daemon is elsewhere, is not known.
    """
    try:
        return any(map(_hides, (path, *islice(path.iterdir(), _MOST_FILES))))
    except NotADirectoryError:
        return _hides(path)
    except OSError:
        return False


def _hides(path: Path) -> bool:
    facts = path.stat()
    needed = stat.S_IROTH | (stat.S_IXOTH if stat.S_ISDIR(facts.st_mode) else 0)
    return facts.st_uid != 0 and facts.st_mode & needed != needed


def _ulimit(name: str, value: int) -> Ulimit:
    return Ulimit(name=name, soft=value, hard=value)


def _seccomp(profile: str) -> list[str]:
    return ["seccomp=unconfined"] if profile == "unconfined" else []


def _ids(gpus: GpuShare | None) -> tuple[str, ...]:
    return tuple(sorted(gpus.ids)) if gpus else ()


def _written(seat: Seat) -> str:
    """Return the seat as a label keeps it."""
    fraction = seat.gpus.fraction if seat.gpus else None
    return json.dumps({"port": seat.port, "gpus": _ids(seat.gpus), "fraction": fraction})
