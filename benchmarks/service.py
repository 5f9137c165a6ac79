"""The service as it is, on an engine that runs already: `python -m benchmarks.service PORT ...`.

The command line, servers, supervisor and engine `tgi` are the real ones. Only the runtime is not:
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
from inference_service.lifecycle import Progress
from inference_service.runtimes.base import Exit, Instance, Launch
from inference_service.server import Runtimes
from inference_service.serving.placement import RuntimeChoice

CATALOG = Path(__file__).with_name("catalog.toml")


class Running:
    """An engine that was there before and stays."""

    def __init__(self, name: str, port: int) -> None:
        self.name = name
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    async def wait(self) -> Exit:
        """Never return."""
        await asyncio.Event().wait()
        raise AssertionError("nobody sets that event")

    async def logs(self, last: int = 0) -> AsyncGenerator[str]:
        """Yield nothing, and do not end either."""
        await asyncio.Event().wait()
        yield ""

    def tail(self, count: int) -> tuple[str, ...]:
        """Nothing."""
        return ()

    async def disk_usage(self, paths: Sequence[str]) -> int | None:
        """It has no files."""
        return None


class RunningEngine:
    """A runtime in which every model's engine is the one on `port`."""

    name = "docker"

    def __init__(self, port: int) -> None:
        self._port = port

    def container_name(self, launch: Launch) -> str:
        """Shown, and nothing else."""
        return f"tgi-{launch.model_id}"

    async def pull(self, launch: Launch) -> AsyncGenerator[Progress]:
        """Nothing is fetched."""
        return
        yield  # makes this a generator

    def gives_gpus(self, launch: Launch) -> bool:
        """It needs none."""
        return False

    @asynccontextmanager
    async def run(self, launch: Launch, gpus: GpuShare | None = None) -> AsyncGenerator[Instance]:
        """Point to the engine."""
        yield Running(self.container_name(launch), self._port)

    def lingers(self, launch: Launch) -> bool:
        """It has no memory that the service counts."""
        return False

    async def survivors(self, launches: Mapping[str, Launch]) -> dict[str, tuple[str, ...]]:
        """None that anybody has to know."""
        return {}

    def leave(self) -> None:
        """It stays in any case."""

    async def aclose(self) -> None:
        """Nothing is held."""


def main() -> None:
    """Serve, with the one runtime in place of those that the settings would choose."""
    port, *arguments = sys.argv[1:]

    choice = RuntimeChoice("docker", "the engine runs")
    runtimes = Runtimes({"docker": RunningEngine(int(port))}, choice)
    cli.main(["--runtime", "docker", "--catalog", str(CATALOG), *arguments], runtimes)


if __name__ == "__main__":
    main()
