"""The service on an engine that runs already: `python -m benchmarks.service PORT ...`.

The command line, servers, models and engine `tgi` are the real ones. Only the runtime is replaced:
it starts nothing and points to `benchmarks/engine.c` on PORT. Further arguments are those of
`inference-service`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from inference_service import cli
from inference_service.capacity.claims import GpuShare
from inference_service.capacity.nodes import LOCAL, Node
from inference_service.key import Key
from inference_service.lifecycle import Progress
from inference_service.lookout import Runtimes
from inference_service.runtimes import base
from inference_service.runtimes.base import Exit, Instance
from inference_service.runtimes.command import Command, Launch, Seat
from inference_service.serving.placement import RuntimeChoice

CATALOG = Path(__file__).with_name("catalog.toml")


class Running:
    """An engine that the service neither starts nor stops."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance

    async def listens(self) -> None:
        pass

    async def wait(self) -> Exit:
        await asyncio.Event().wait()
        raise AssertionError("the event is never set")

    async def logs(self, last: int = 0) -> AsyncGenerator[str]:
        await asyncio.Event().wait()
        yield ""  # makes this a generator, which yields no line and does not end

    def tail(self, count: int) -> tuple[str, ...]:
        return ()

    async def disk_usage(self, paths: Sequence[str]) -> int | None:
        return None


class RunningEngine:
    """A runtime in which the engine of every model is the one on `port`."""

    name = "docker"
    creates = "starting the container"
    seat = Seat(in_container=True, has_gpu=True)  # else TGI works on one request at once
    patience = 10.0
    nodes = (Node(LOCAL, 1 << 40),)

    def __init__(self, port: int) -> None:
        self._port = port

    def container_name(self, key: Key) -> str:
        return f"tgi-{key}"

    async def pull(self, command: Command) -> AsyncGenerator[Progress]:
        return
        yield  # makes this a generator

    @asynccontextmanager
    async def run(
        self, launch: Launch, gpus: GpuShare | None = None
    ) -> AsyncGenerator[base.Running]:
        command = launch.command(self.seat)
        yield Running(Instance.local(self.container_name(launch.key), self._port, command))

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


def main() -> None:
    """Serve with this one runtime in place of those that the settings would choose."""
    port, *arguments = sys.argv[1:]

    choice = RuntimeChoice("docker", "the engine runs")
    runtimes = Runtimes({"docker": RunningEngine(int(port))}, choice)
    cli.main(["--runtime", "docker", "--catalog", str(CATALOG), *arguments], runtimes)


if __name__ == "__main__":
    main()
