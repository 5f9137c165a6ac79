"""Engines that somebody else runs, at the `url` of their command.

Such an engine has no life here: it is neither started nor stopped, and has no log. A run of it
begins when the engine answers, and ends when the model is stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from inference_service.capacity.claims import GpuShare
from inference_service.capacity.nodes import Node
from inference_service.errors import Unlaunchable
from inference_service.lifecycle import Progress
from inference_service.runtimes.base import Exit, Instance, StatelessRuntime
from inference_service.runtimes.command import Command, Launch, Seat
from inference_service.runtimes.logs import KEPT_LINES, LogBuffer


class RemoteRuntime(StatelessRuntime):
    """The runtime `url`, of engines that run already. It claims nothing of this machine."""

    name = "url"
    creates = "looking for the engine"
    seat = Seat()
    nodes: Sequence[Node] = ()
    patience = 10.0

    async def pull(self, command: Command) -> AsyncGenerator[Progress]:
        """Refuse a command without an address. Otherwise fetch nothing."""
        if not command.url:
            raise Unlaunchable(f"{command.name} has no `url` at which its engine runs")
        return
        yield  # makes this a generator

    @asynccontextmanager
    async def run(
        self, launch: Launch, gpus: GpuShare | None = None
    ) -> AsyncGenerator[RunningElsewhere]:
        """Give the engine at its address. Leaving does nothing to it."""
        command = launch.command(self.seat)
        name, model = self.container_name(launch.key), command.model
        instance = Instance(name, command.url, 0, model, command.headers, command.health)
        running = RunningElsewhere(instance, command)
        try:
            yield running
        finally:
            running.leave()


class RunningElsewhere:
    """An engine that somebody else runs, whose log and end are not seen here."""

    def __init__(self, instance: Instance, command: Command) -> None:
        self.instance = instance
        self._log = LogBuffer(command.hidden)
        self._left: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def listens(self) -> None:
        """Return at once: whoever runs the engine answers for its address."""

    async def wait(self) -> Exit:
        """Wait until the run is left: the end of the engine is not seen here."""
        await asyncio.shield(self._left)
        return Exit(None)

    def logs(self, last: int = KEPT_LINES) -> AsyncGenerator[str]:
        return self._log.follow(last)

    def tail(self, count: int) -> tuple[str, ...]:
        return self._log.tail(count)

    async def disk_usage(self, paths: Sequence[str]) -> int | None:
        """Return None: the disk of the engine is not seen here."""
        return None

    def leave(self) -> None:
        """End the waits and the log."""
        self._log.close()
        if not self._left.done():
            self._left.set_result(None)
