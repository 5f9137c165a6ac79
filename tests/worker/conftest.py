"""The worker as a process: its lines and its exit."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import pytest

from tests.doubles.hub import Hub

STORY = Path(__file__).parents[2] / "inference_service" / "story_mini" / "story-mini.gguf"

Event = dict[str, Any]
T = TypeVar("T")

# Of each wait for a line or an end. No test lets a worker be silent for as long.
_LIMIT_SECONDS = 60.0


class Worker:
    """One started worker. Each read goes on after the last, so events come in their order."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.events: list[Event] = []

    async def next(self) -> Event | None:
        """Read the next event; None is the end of the output."""
        assert self.process.stdout is not None
        line = await self._within_limit(self.process.stdout.readline(), "no line")
        if not line:
            return None
        event: Event = json.loads(line)
        self.events.append(event)
        return event

    async def _within_limit(self, wait: Awaitable[T], what: str) -> T:
        try:
            return await asyncio.wait_for(wait, _LIMIT_SECONDS)
        except TimeoutError:
            pytest.fail(f"{what} of the worker in {_LIMIT_SECONDS:g} s after {self.events}")

    async def until(self, name: str) -> Event:
        """Read up to an event, and fail at the end of the worker."""
        while (event := await self.next()) is not None:
            if event["event"] == name:
                return event
            if event["event"] in ("serving", "failed"):  # nothing follows
                break
        pytest.fail(f"the worker came to its end without {name!r}: {self.events}")

    async def url(self) -> str:
        """Return the address, once the worker serves."""
        serving = await self.until("serving")
        return f"http://{serving['host']}:{serving['port']}"

    async def exit(self) -> int:
        """Read up to the end of the output, and return the exit code."""
        while await self.next() is not None:
            pass
        return await self._within_limit(self.process.wait(), "no exit")

    async def failure(self) -> tuple[int, str, str]:
        """Return the exit code, and the reason and message of the `failed` event."""
        failed = await self.until("failed")
        return await self.exit(), failed["reason"], failed["message"]

    def libraries(self) -> str:
        """Return the memory map, which names all loaded libraries."""
        return Path(f"/proc/{self.process.pid}/maps").read_text()

    async def errors(self) -> str:
        """Return standard error, up to the end of the worker."""
        assert self.process.stderr is not None
        return (await self.process.stderr.read()).decode()


Start = Callable[..., Awaitable[Worker]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start workers, by default of the story model, and kill them at the end.

    Keywords are the environment; positional arguments are a command that runs the worker.
    """

    async def kill(worker: Worker) -> None:
        if worker.process.returncode is None:
            worker.process.kill()
        if worker.process.stdin is not None:
            worker.process.stdin.close()
        await worker.exit()
        await worker.errors()

    async with AsyncExitStack() as stack:

        async def start(*command: str, **environment: str) -> Worker:
            inherited = {
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("LLAMACPP_", "HF_"))
            }
            process = await asyncio.create_subprocess_exec(
                *command,
                sys.executable,
                "-m",
                "inference_service.worker",
                env=inherited | {"LLAMACPP_FILE": str(STORY)} | environment,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            worker = Worker(process)
            stack.push_async_callback(kill, worker)
            return worker

        yield start


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        yield session


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    async with Hub() as hub:
        yield hub


@pytest.fixture(scope="session")
def story() -> bytes:
    return STORY.read_bytes()
