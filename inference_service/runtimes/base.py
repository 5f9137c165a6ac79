"""The protocol of runtimes: where engines run.

A new runtime is a class with the methods of `Runtime`, whose instances have those of `Instance`. It
passes `tests/runtimes/test_contract.py` with a bed of its own in `tests/runtimes/beds.py`, and
`lookout.py` builds it. Methods that do as described here need no docstring of their own. A runtime
whose engines leave nothing behind has some of its methods from `StatelessRuntime`.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from inference_service.capacity.claims import GpuShare
from inference_service.capacity.nodes import Node
from inference_service.key import Key
from inference_service.lifecycle import Progress
from inference_service.runtimes import identity
from inference_service.runtimes.command import Command, Launch, Seat
from inference_service.runtimes.logs import KEPT_LINES

_SIGNALLED = 128  # shells and containers give 128 and the number of the signal


@dataclass(frozen=True, slots=True)
class Exit:
    """The end of an engine.

    `code` is the exit code: negative where a signal ended a process, None where it is unknown. A
    `lost` engine has no known end, because its machine is gone. `limit` is the one that an engine
    met which ran out of memory, where that was not its own.
    """

    code: int | None
    oom_killed: bool = False
    lost: bool = False
    limit: str = ""

    @property
    def facts(self) -> dict[str, object]:
        """The metadata of the error that reports this end: `exit_code` and `oom_killed`.

        There are none where the end is unknown.
        """
        if self.code is None:
            return {}
        return {"exit_code": self.code, "oom_killed": str(self.oom_killed).lower()}

    @property
    def has_no_program(self) -> bool:
        """Whether a shell, or the init of a container, has found no program that it can run."""
        return self.code in (126, 127)

    def __str__(self) -> str:
        if self.lost:
            return "was lost with its machine"
        if self.oom_killed:
            code = f"exit code {self._shown_code}"
            if self.limit:
                advice = "raise that, or lower the setting `memory`"
                return f"ran out of memory ({code}; what is full is {self.limit}: {advice})"
            return f"ran out of its memory limit ({code}; raise `memory` of its entry)"
        return "ended" if self.code is None else f"exited with code {self._shown_code}"

    @property
    def _shown_code(self) -> str:
        """The exit code, with the name of the signal that it stands for."""
        code = self.code or 0
        number = code - _SIGNALLED if code > _SIGNALLED else -code
        known = number in set(signal.Signals)
        return f"{code}, {signal.Signals(number).name}" if known else str(self.code)


@dataclass(frozen=True, slots=True)
class Instance:
    """What serves during a run, as data: the only address that anybody uses.

    `name` is that of the container; see `Runtime.container_name`. `url` begins with `http://` or
    `https://`, and ends without a slash. `port` is that of 127.0.0.1, or 0 where the engine is
    elsewhere. `model`, `headers`, `health` and `context` are those of its command.
    """

    name: str
    url: str
    port: int = 0
    model: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    health: str = ""
    context: int = 0

    @classmethod
    def local(cls, name: str, port: int, command: Command) -> Instance:
        """Return the instance of a command whose engine listens at a port of 127.0.0.1."""
        url = f"http://127.0.0.1:{port}"
        own = (command.model, command.headers, command.health, command.context)
        return cls(name, url, port, *own)


class Running(Protocol):
    """An engine that runs: its instance, its log and its end."""

    @property
    def instance(self) -> Instance:
        """The instance that serves."""

    async def listens(self) -> None:
        """Return when the engine itself holds its port; then the instance is the final one.

        Nobody asks the engine before that: a port that was free can be taken by another user of the
        machine, who would read the prompts. It need not return where the engine ends before.
        """

    async def wait(self) -> Exit:
        """Wait for the end of the engine, whatever the cause, and return it.

        The log is complete then. Any number of callers may wait, at any time, also after the end.
        All return at the latest when `run` is left, then perhaps with an unknown exit.
        """

    def logs(self, last: int = KEPT_LINES) -> AsyncGenerator[str]:
        """Yield the last lines that are kept, then each new line, until the end.

        No line shows one of `Command.hidden`.
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
        """The name that callers see: `docker`, `process` or `url`."""

    @property
    def creates(self) -> str:
        """What the runtime does in the phase CREATING_CONTAINER, in words for people."""

    @property
    def seat(self) -> Seat:
        """The empty seat: what every engine finds here."""

    @property
    def nodes(self) -> Sequence[Node]:
        """The machines on which engines run, with their capacity; none where that is unknown."""

    @property
    def patience(self) -> float:
        """The seconds in which the runtime notices that an engine has ended or is lost."""

    def container_name(self, key: Key) -> str:
        """Return the name that the container of this run has, or would have.

        Every instance has such a name, also where it is no container.
        """

    def pull(self, command: Command) -> AsyncGenerator[Progress]:
        """Fetch what `run` needs and this machine lacks, and yield the progress.

        `command` is that of an empty seat. Closing the generator ends the transfer. Raises
        LaunchError where the command cannot run here, or RuntimeUnavailable.
        """

    def run(
        self, launch: Launch, gpus: GpuShare | None = None
    ) -> AbstractAsyncContextManager[Running]:
        """Run the engine while the context is open.

        On entering, an engine that an earlier service left running is adopted as it is, if it fits
        the launch and has these GPUs. Otherwise a new engine is started. An engine that gets GPUs
        gets those of `gpus`, or all GPUs where `gpus` is None.

        On leaving, the engine is stopped and removed, after a failure and a cancellation too. An
        engine has `stop_grace` to end by itself; but after an error in the block, as when the
        engine hangs, it is killed at once. Then its name, port and memory are free.

        Raises LaunchError or RuntimeUnavailable on entering, StopFailed on leaving.
        """

    def removal_pending(self, key: Key) -> bool:
        """Return whether the removal of this run's engine is pending.

        A removal is pending when leaving `run` has failed to remove the engine, which may still use
        its memory. The runtime retries until the engine is gone, or the key is run again.
        """

    async def survivors(self, commands: Mapping[str, Command]) -> dict[Key, tuple[str, ...]]:
        """Find the engines of an earlier service that still run and fit; remove the others.

        `commands` are those of the empty seat, by model id. Returns, by key, the ids of the GPUs
        that the engine was given by name. The engines that fit wait for `run` to adopt them.

        Raises LaunchError or RuntimeUnavailable.
        """

    def leave(self) -> None:
        """Let engines run on from now on, where `run` is left without an error.

        The next service can adopt them. A runtime whose engines end with the service does nothing.
        """

    def hurry(self) -> None:
        """Wait less for what does not answer, from now on: the service ends."""

    async def aclose(self) -> None:
        """Release what the runtime itself holds, such as connections, and give up retries."""


class StatelessRuntime:
    """The part of a runtime whose runs leave nothing to remove, adopt or close.

    Processes end with the service, and cannot refuse SIGKILL; engines that somebody else runs go on
    in any case.
    """

    def container_name(self, key: Key) -> str:
        """Return the name without that of the service, because these names cannot clash."""
        return identity.container_name(identity.DEFAULT, key)

    def removal_pending(self, key: Key) -> bool:
        return False

    async def survivors(self, commands: Mapping[str, Command]) -> dict[Key, tuple[str, ...]]:
        return {}

    def leave(self) -> None:
        pass

    def hurry(self) -> None:
        pass

    async def aclose(self) -> None:
        pass
