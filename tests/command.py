"""The service as a process of its own, as an operator runs it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """A process that serves: gRPC at `target`, REST at `url`."""

    process: asyncio.subprocess.Process
    target: str
    url: str

    async def kill(self) -> None:
        """End it with SIGKILL."""
        self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def command(module: str = "inference_service", **settings: object) -> AsyncGenerator[Command]:
    """Run `inference-service` on free ports; it is killed in the end, if it still runs."""
    settings = {"grpc_port": 0, "rest_port": 0} | settings
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *flags), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        faces: dict[str, str] = {}
        while len(faces) < 2:
            line = (await process.stdout.readline()).decode()
            assert line, "the service did not come up"
            name, _, address = line.partition(" ")
            if name in ("gRPC", "REST"):
                faces[name] = address.split()[0]
        yield Command(process, faces["gRPC"], faces["REST"])
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
