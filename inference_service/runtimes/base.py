"""The protocol of runtimes: where engines run.

A new runtime is a class with the methods of `Runtime`, whose instances have those of `Instance`. It
passes `tests/runtimes/test_contract.py` with a bed of its own in `tests/runtimes/beds.py`, and
`server.py` builds it. Methods that do as described here need no docstring of their own.
"""

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

# Variables of this service's own environment that every engine gets.
HUB_ENV = ("HF_TOKEN", "HF_ENDPOINT")

_SECRET = re.compile("(TOKEN|SECRET|PASSWORD|KEY)$")


@dataclass(frozen=True, slots=True)
class Launch:
    """The facts by which a runtime runs the engine of one model.

    An engine is configured by environment variables alone, so that the same launch works as a
    container and as a process. The runtime adds to `env`:
    - the two variables of `address_env`: the host and the port on which the engine must listen;
    - those of `gpu_env`, where `env` does not have them: the number of GPUs, `GpuShare.fraction`;
    - each variable of `files`: the path under which the engine sees that file.
    """

    model_id: str
    image: str
    module: str | None  # `python -m` runs it in place of the image; None: containers only
    env: Mapping[str, str]
    address_env: tuple[str, str]
    memory_bytes: int
    cpu_env: Mapping[str, str] = field(default_factory=dict)  # added where it gets no GPU
    process_env: Mapping[str, str] = field(default_factory=dict)  # added where it is a process
    files: Mapping[str, Path] = field(default_factory=dict)
    gpus: Gpus = "none"
    gpu_need: GpuNeed = field(default_factory=GpuNeed)  # where the engine gets any GPUs
    gpu_env: tuple[str, str] | None = None  # for the number, for the fraction
    concurrency: int = 128  # requests that the engine works on at once
    stop_grace: float = 10.0  # seconds from the request to stop to the kill

    def secrets(self) -> tuple[str, ...]:
        """Return the values that the log must not show, by the names of their variables."""
        env = {name: os.environ.get(name, "") for name in HUB_ENV} | dict(self.env)
        return tuple(value for name, value in env.items() if value and _SECRET.search(name))


@dataclass(frozen=True, slots=True)
class Exit:
    """The end of an engine.

    `code` is the exit code: negative where a signal ended a process, None where it is unknown.
    """

    code: int | None
    oom_killed: bool = False

    @property
    def facts(self) -> dict[str, object]:
        """The metadata of the error that reports this end: `exit_code` and `oom_killed`."""
        return {"exit_code": self.code, "oom_killed": str(self.oom_killed).lower()}

    def __str__(self) -> str:
        if self.oom_killed:
            return f"ran out of its memory limit (exit code {self.code})"
        return f"exited with code {self.code}"


class Instance(Protocol):
    """A running engine, with a url, a log and an end."""

    @property
    def name(self) -> str:
        """The name of the container; see `Runtime.container_name`."""

    @property
    def port(self) -> int:
        """The port of 127.0.0.1 on which the engine listens."""

    @property
    def url(self) -> str:
        """The address of the engine: `http://127.0.0.1:<port>`."""

    async def wait(self) -> Exit:
        """Wait for the end of the engine, whatever the cause, and return it.

        The log is complete then. Any number of callers may wait, at any time, also after the end.
        All return at the latest when `run` is left, then perhaps with an unknown exit.
        """

    def logs(self, last: int = KEPT_LINES) -> AsyncGenerator[str]:
        """Yield the last lines that are kept, then each new line, until the end.

        No line shows one of `Launch.secrets`.
        """

    def tail(self, count: int) -> tuple[str, ...]:
        """Return the last lines of the log, oldest first."""

    async def disk_usage(self, paths: Sequence[str]) -> int | None:
        """Measure the bytes that files and folders of the engine take on the disk.

        Returns the sum, in which a path that does not exist yet counts as 0, or None where the sum
        is unknown. Never raises.
        """


class Runtime(Protocol):
    """A place where engines run. One object serves all models."""

    @property
    def name(self) -> str:
        """The name in the settings: `docker` or `process`."""

    def container_name(self, launch: Launch) -> str:
        """Return the name that the container of this launch has, or would have.

        Every instance has such a name, also where it is no container.
        """

    def pull(self, launch: Launch) -> AsyncGenerator[Progress]:
        """Fetch what `run` needs and this machine lacks, and yield the progress.

        Closing the generator ends the transfer. Raises LaunchError where the launch cannot run
        here, or RuntimeUnavailable.
        """

    def gives_gpus(self, launch: Launch) -> bool:
        """Return whether an engine of this launch gets GPUs from this runtime."""

    def run(
        self, launch: Launch, gpus: GpuShare | None = None
    ) -> AbstractAsyncContextManager[Instance]:
        """Run the engine while the context is open.

        On entering, an engine that an earlier service left running is adopted as it is, if it fits
        the launch and has these GPUs. Otherwise a new engine is started. An engine that gets GPUs
        gets those of `gpus`, or all GPUs where `gpus` is None.

        On leaving, the engine is stopped and removed, after a failure and a cancellation too. An
        engine has `launch.stop_grace` to end by itself; but after an error in the block, as when
        the engine hangs, it is killed at once. Then its name, port and memory are free.

        Raises LaunchError or RuntimeUnavailable on entering, StopFailed on leaving.
        """

    def removal_pending(self, launch: Launch) -> bool:
        """Return whether the removal of this launch's engine is pending.

        A removal is pending when leaving `run` has failed to remove the engine, which may still use
        its memory. The runtime retries until the engine is gone, or the model is run again.
        """

    async def survivors(self, launches: Mapping[str, Launch]) -> dict[str, tuple[str, ...]]:
        """Find the engines of an earlier service that still run and fit; remove the others.

        `launches` is by model id. Returns, by model id, the ids of the GPUs that the engine was
        given by name. The engines that fit wait for `run` to adopt them.

        Raises LaunchError or RuntimeUnavailable.
        """

    def leave(self) -> None:
        """Let engines run on from now on, where `run` is left without an error.

        The next service can adopt them. A runtime whose engines end with the service does nothing.
        """

    async def aclose(self) -> None:
        """Release what the runtime itself holds, such as connections, and give up retries."""
