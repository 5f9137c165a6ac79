"""The service as a process of its own, as an operator runs it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import IO

from tests.waiting import SLOWLY, within


@dataclass(frozen=True)
class Command:
    """A process of the service: gRPC at `target`, REST at `url`."""

    process: asyncio.subprocess.Process
    target: str
    url: str

    async def kill(self) -> None:
        """End the process with SIGKILL."""
        self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def command(
    module: str = "inference_service", stderr: IO[bytes] | None = None, **settings: object
) -> AsyncGenerator[Command]:
    """Run `inference-service` on free ports, and kill it at the end if it still runs."""
    settings = {"grpc_port": 0, "rest_port": 0} | settings
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *flags), stdout=asyncio.subprocess.PIPE, stderr=stderr
    )
    try:
        async with within(SLOWLY, "the service did not print its addresses"):
            target, url = await _addresses(process)
        yield Command(process, target, url)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def _addresses(process: asyncio.subprocess.Process) -> tuple[str, str]:
    """Read the addresses of gRPC and REST from the banner."""
    assert process.stdout is not None
    found: dict[str, str] = {}
    while len(found) < 2:
        line = (await process.stdout.readline()).decode()
        assert line, "the service ended before it printed its addresses"
        name, _, address = line.partition(" ")
        if name in ("gRPC", "REST"):
            found[name] = address.split()[0]
    return found["gRPC"], found["REST"]
