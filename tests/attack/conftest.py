"""Attacks with a table at the end. ATTACK_SECONDS (10) is how long each one goes on."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.attack.neighbour import call_on
from tests.attack.report import Report, Row
from tests.attack.target import OTHER, Target, attacked

SECONDS = float(os.environ.get("ATTACK_SECONDS", "10"))
SEED = int(os.environ.get("ATTACK_SEED", "14"))

_REPORT = pytest.StashKey[Report]()

Attack = Callable[[Target, random.Random], Awaitable[None]]
Attacked = Callable[..., Awaitable[None]]


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_REPORT] = Report()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the table."""
    report = config.stash[_REPORT]
    if report.rows:
        terminalreporter.section("attacks")
        terminalreporter.write_line(str(report))


@pytest.fixture
def attack(tmp_path: Path, pytestconfig: pytest.Config) -> Attacked:
    """Run an attack again and again, with a neighbour; make a row, and fail unless it is clean.

    `attack` is called by `workers` at once, until the time is over. `allowed` are the reasons that
    the neighbour may get, who calls the model `model_id`.
    """

    async def run(
        name: str,
        attack: Attack,
        workers: int = 4,
        model_id: str = OTHER,
        allowed: set[str] | None = None,
        **settings: Any,
    ) -> None:
        row = Row(name)
        pytestconfig.stash[_REPORT].rows.append(row)
        async with attacked(row, tmp_path, **settings) as target:
            command = target.command
            neighbour = call_on(row, command.target, command.url, model_id, allowed or set())
            async with _beside(neighbour):
                dice = [random.Random(f"{SEED} {worker}") for worker in range(workers)]
                async with asyncio.TaskGroup() as group:
                    end = asyncio.get_running_loop().time() + SECONDS
                    for each in dice:
                        group.create_task(_again(attack, target, each, end))

    return run


async def _again(attack: Attack, target: Target, dice: random.Random, end: float) -> None:
    while asyncio.get_running_loop().time() < end:
        await attack(target, dice)


@asynccontextmanager
async def _beside(work: Any) -> AsyncGenerator[None]:
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
