"""The worker as its parent sees it: a process, its lines, its exit."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.doubles.hub import Hub

STORY = Path(__file__).parents[2] / "inference_service" / "story_mini" / "story-mini.gguf"

Event = dict[str, Any]


class Worker:
    """One started worker. Reading goes on where it was left, so events are met in their order."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.events: list[Event] = []

    async def next(self) -> Event | None:
        """The next event, or None at the end of its output."""
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        if not line:
            return None
        event: Event = json.loads(line)
        self.events.append(event)
        return event

    async def until(self, name: str) -> Event:
        while (event := await self.next()) is not None:
            if event["event"] == name:
                return event
            if event["event"] in ("serving", "failed"):  # nothing follows
                break
        pytest.fail(f"the worker came to its end without {name!r}: {self.events}")

    async def url(self) -> str:
        """Where it serves, once it does."""
        serving = await self.until("serving")
        return f"http://{serving['host']}:{serving['port']}"

    async def exit(self) -> int:
        while await self.next() is not None:
            pass
        return await self.process.wait()

    async def failure(self) -> tuple[int, str, str]:
        """Its exit code, reason and message."""
        failed = await self.until("failed")
        return await self.exit(), failed["reason"], failed["message"]

    def libraries(self) -> str:
        """What is loaded into it."""
        return Path(f"/proc/{self.process.pid}/maps").read_text()

    async def errors(self) -> str:
        """What it wrote to standard error, once it has ended."""
        assert self.process.stderr is not None
        return (await self.process.stderr.read()).decode()


Start = Callable[..., Awaitable[Worker]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start workers, by default of the story model, and leave none behind.

    Keywords are the environment; what stands before them is a command that runs the worker.
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
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    async with Hub() as hub:
        yield hub


@pytest.fixture(scope="session")
def story() -> bytes:
    return STORY.read_bytes()
