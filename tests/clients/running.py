"""A program before a service, and its row in the table of clients."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.clients.conftest import ROWS, Row
from tests.clients.programs import Program, environment

CHAT, EMBEDDER = "chat", "embedder"
_LINES = 30  # of a program that fails


@dataclass(frozen=True)
class Served:
    """A service with the models `CHAT` and `EMBEDDER`, and a server whose models always start.

    `seconds` are what a program may take.
    """

    engine: str
    url: str
    cold_url: str
    seconds: float


async def run(program: Program, served: Served, folder: Path, pytestconfig: pytest.Config) -> None:
    """Run a program, which must do all that it says."""
    words = (*program.words(folder), served.url, CHAT, EMBEDDER, served.cold_url)
    start = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *words,
        env=environment(folder),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(served.seconds):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()

    last = "\n".join(out.decode(errors="replace").splitlines()[-_LINES:])
    assert process.returncode == 0, last
    seconds = f"{time.monotonic() - start:.1f}"
    about = (program.client, program.language, program.version())
    pytestconfig.stash[ROWS].append(Row(*about, served.engine, seconds, program.what))
