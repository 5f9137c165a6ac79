"""A kill of the bridge as a program of its own; only its own callers are lost."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.chaos.callers import LOST, TEXT
from tests.chaos.conftest import Faulty
from tests.chaos.trial import ENDLESS, SHORT
from tests.service import Serving, free, free_ports
from tests.waiting import SLOWLY, until

pytestmark = [pytest.mark.docker, pytest.mark.chaos]

Settings = Callable[..., dict[str, Any]]


@asynccontextmanager
async def bridge(service: Serving, port: int) -> AsyncGenerator[asyncio.subprocess.Process]:
    """Run `rest-bridge` before the service, from the moment at which it listens."""
    flags = [f"--target={service.service.target}", f"--port={port}", "--no-access-log"]
    command = (sys.executable, "-m", "rest_bridge", *flags)
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
    try:
        await until(lambda: not free(port), "the bridge did not listen", SLOWLY)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_killed_and_started_amid_streams(faulty: Faulty, tgi: Settings) -> None:
    async with (
        faulty("kill -9 of the bridge amid 10 of 20 streams", {LOST}) as trial,
        trial.serving(**tgi(DOUBLE_TOKENS_PER_SECOND=50)) as service,
    ):
        port = int(free_ports(1).partition("-")[0])
        async with bridge(service, port) as process:
            body = SHORT | {"prompt": ENDLESS["prompt"], "max_new_tokens": 100}
            direct = trial.call(service, 10, body, ("GenerateStream",))
            trial.rest_at = f"http://127.0.0.1:{port}"
            bridged = trial.call(service, 10, ENDLESS, ("/generate_stream",))
            await direct.reading()
            await bridged.reading()
            trial.strike()
            process.kill()
            await bridged.answered()
        async with bridge(service, port):
            again = trial.call(service, 10, SHORT, ("/generate_stream", "/generate"))
            await again.answered()
            await trial.heal(service)
            await direct.answered()
        assert [caller.answers for caller in bridged.callers] == [[LOST]] * 10
        assert [caller.answers for caller in direct.callers] == [[TEXT]] * 10
        assert [caller.answers for caller in again.callers] == [[TEXT]] * 10
