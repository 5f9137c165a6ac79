"""The children of the launcher: router and shards, each in a process group of its own."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Awaitable
from pathlib import Path

ROUTER = "text-generation-router"
_PACKAGE = __name__.rpartition(".")[0]


class Child:
    """A running child, and what it has written on standard error."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> str:
        assert self._process.stderr is not None
        return (await self._process.stderr.read()).decode(errors="replace")

    @property
    def ended(self) -> bool:
        """Whether the end is known."""
        return self._process.returncode is not None

    async def wait(self) -> int:
        """Wait for the end, and return the signal that caused it, or 0."""
        return max(-await self._process.wait(), 0)

    async def errors(self) -> str:
        """Return what the child wrote on standard error until its end."""
        return await self._reading

    async def terminate(self, timeout: float, *, deaf: bool = False) -> bool:
        """End the child. Returns False where it had to be killed; a `deaf` one always has to."""
        with contextlib.suppress(ProcessLookupError):
            if not deaf:
                self._process.send_signal(signal.SIGTERM)
        if not await _within(self._process.wait(), timeout):
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
            return False
        return True


async def _within(waiting: Awaitable[object], seconds: float) -> bool:
    try:
        await asyncio.wait_for(waiting, seconds)
    except TimeoutError:
        return False
    return True


async def start_shard(path: str, load_seconds: float) -> Child:
    """Start a shard, which listens at `path` after its load."""
    program = str(Path(__file__).with_name("shard.py"))
    return await _start("-I", "-S", program, path, str(load_seconds))


async def start_router(shards: int) -> Child:
    """Start the router, which takes its options from the environment as the launcher does."""
    return await _start("-m", _PACKAGE, ROUTER, str(shards))


async def _start(*arguments: str) -> Child:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *arguments), stderr=asyncio.subprocess.PIPE, process_group=0
    )
    return Child(process)
