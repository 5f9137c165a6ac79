"""The seam between a model's life and the place where its engine runs."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from inference_service.capacity.claims import GpuNeed, GpuShare
from inference_service.catalog import Gpus
from inference_service.lifecycle import Progress
from inference_service.runtimes.logs import KEPT_LINES

# What every engine gets of this service's own environment.
HUB_ENV = ("HF_TOKEN", "HF_ENDPOINT")

_SECRET = re.compile("(TOKEN|SECRET|PASSWORD|KEY)$")


@dataclass(frozen=True, slots=True)
class Launch:
    """What it takes to run the engine of one model, made by its engine from the catalog.

    The engine is configured by environment alone, so that the same launch works as a container and
    as a process: the runtime sets the two variables of `address_env` to the host and port on which
    the engine must listen, those of `gpu_env` as `env` does not, and each variable of `files` to
    the path under which it sees that file.
    """

    model_id: str
    image: str
    module: str | None  # what `python -m` runs in place of the image; None: containers only
    env: Mapping[str, str]
    address_env: tuple[str, str]
    memory_bytes: int
    cpu_env: Mapping[str, str] = field(default_factory=dict)  # added where it gets no GPU
    process_env: Mapping[str, str] = field(default_factory=dict)  # added where it is a process
    files: Mapping[str, Path] = field(default_factory=dict)
    gpus: Gpus = "none"
    gpu_need: GpuNeed = field(default_factory=GpuNeed)  # what it wants of them, where it gets any
    gpu_env: tuple[str, str] | None = None  # variables for their number and `GpuShare.fraction`
    concurrency: int = 128  # requests that the engine works on at once
    stop_grace: float = 10.0  # seconds from the request to stop to the kill

    def secrets(self) -> tuple[str, ...]:
        """What its log must not show: values of the environment whose names say so."""
        env = {name: os.environ.get(name, "") for name in HUB_ENV} | dict(self.env)
        return tuple(value for name, value in env.items() if value and _SECRET.search(name))


@dataclass(frozen=True, slots=True)
class Exit:
    """How an engine ended. `code` is negative for a signal of a process; None when unknown."""

    code: int | None
    oom_killed: bool = False

    @property
    def facts(self) -> dict[str, object]:
        """The metadata of the error that tells of it."""
        return {"exit_code": self.code, "oom_killed": str(self.oom_killed).lower()}

    def __str__(self) -> str:
        if self.oom_killed:
            return f"ran out of its memory limit (exit code {self.code})"
        return f"exited with code {self.code}"


class Instance(Protocol):
    """A running engine."""

    @property
    def name(self) -> str:
        """The name of its container."""

    @property
    def port(self) -> int:
        """Its port on 127.0.0.1."""

    @property
    def url(self) -> str:
        """`http://127.0.0.1:<port>`."""

    async def wait(self) -> Exit:
        """Return when it has ended, however that came. Any number may wait, at any time."""

    def logs(self, last: int = KEPT_LINES) -> AsyncGenerator[str]:
        """Yield the last lines that are kept, then each new one, until it has ended."""

    def tail(self, count: int) -> tuple[str, ...]:
        """The last lines that it wrote, oldest first."""

    async def disk_usage(self, paths: Sequence[str]) -> int | None:
        """The bytes that files and folders of its own take on the disk, those to come as 0.

        Never raises: None where it cannot be told.
        """


class Runtime(Protocol):
    """A place where engines run."""

    @property
    def name(self) -> str:
        """`docker` or `process`."""

    def container_name(self, launch: Launch) -> str:
        """The name that its container has, or would have; of a process too, which has none."""

    def pull(self, launch: Launch) -> AsyncGenerator[Progress]:
        """Fetch what `run` needs and is not here yet. Closing it ends the transfer.

        Raises LaunchError or RuntimeUnavailable.
        """

    def gives_gpus(self, launch: Launch) -> bool:
        """Whether an engine launched so gets GPUs here."""

    def run(
        self, launch: Launch, gpus: GpuShare | None = None
    ) -> AbstractAsyncContextManager[Instance]:
        """Run the engine; leaving stops and removes it, on failure and on cancellation too.

        One that gets GPUs gets those of `gpus`, or all where none are named. After an error in the
        block, as when the engine hangs, it is killed without its grace. An engine of an earlier run
        of this service that fits the launch, on these GPUs, is taken over as it is.
        Raises LaunchError or RuntimeUnavailable on entering, StopFailed on leaving.
        """

    def lingers(self, launch: Launch) -> bool:
        """Whether it has been left, but could not be removed yet: it may still use its memory.

        The runtime tries again, until it has gone or is run again.
        """

    async def survivors(self, launches: Mapping[str, Launch]) -> dict[str, tuple[str, ...]]:
        """The models whose engines still run from an earlier run of this service, and fit.

        Each with the ids of the GPUs that were named to it. What does not fit any of `launches`,
        which are by model id, is removed.
        """

    def leave(self) -> None:
        """From now on, leaving `run` lets the engine run on where it can: for the next service."""

    async def aclose(self) -> None:
        """Give back what the runtime itself holds."""
