"""The programs of `examples/` in one scenario, before a service that is not there at first."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from tests.grpc.conftest import ROWS, Row
from tests.grpc.examples import EXAMPLES, Example
from tests.service import Serving, free_ports, serving
from tests.waiting import SLOWLY, WHOLE, within

CALLS = 1200
QUEUE = 4  # so that most of those calls are refused, which a program makes without retries
_LINES = 30  # of a program that fails

Step = dict[str, Any]


@asynccontextmanager
async def running(example: Example, target: str) -> AsyncGenerator[asyncio.subprocess.Process]:
    arguments = (target, f"{example.quiet:g}", f"{CALLS}", f"{example.keepalive:g}")
    pipe = asyncio.subprocess.PIPE
    program = await asyncio.create_subprocess_exec(
        *example.command(), *arguments, stdout=pipe, stderr=pipe
    )
    try:
        yield program
    finally:
        if program.returncode is None:
            program.kill()
        await program.communicate()


async def called(port: int) -> None:
    """Return when somebody has connected to this port, at which then nobody listens."""
    came = asyncio.Event()

    def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        came.set()

    async with within(SLOWLY, "the program did not connect"):
        server = await asyncio.start_server(hang_up, "127.0.0.1", port)
        async with server:
            await came.wait()


def service_at(port: int, example: Example) -> AbstractAsyncContextManager[Serving]:
    return serving(
        grpc_port=port,
        ports=free_ports(4),
        client_ping_interval=example.keepalive,
        queue_size=QUEUE,
    )


async def steps_of(example: Example) -> list[Step]:
    """Return what a program has printed; where its library waits, it comes before the service."""
    port = int(free_ports(1).partition("-")[0])
    target = f"127.0.0.1:{port}"
    if not example.waits:
        async with service_at(port, example), running(example, target) as program:
            return await printed(program)
    async with running(example, target) as program:
        await called(port)
        async with service_at(port, example):
            return await printed(program)


async def printed(program: asyncio.subprocess.Process) -> list[Step]:
    async with within(WHOLE, "the program did not end"):
        out, err = await program.communicate()
    lines = out.decode().splitlines()
    last = "\n".join([*lines, *err.decode(errors="replace").splitlines()[-_LINES:]])
    assert program.returncode == 0, last
    return [json.loads(line) for line in lines]


def is_code(said: str, code: str) -> bool:
    """Tell whether a library means this code: in Go it is `Canceled`, in Java `CANCELLED`."""
    plain = said.upper().replace("_", "").replace("CANCELED", "CANCELLED")
    return plain == code.replace("_", "")


def check(example: Example, steps: list[Step]) -> None:
    """Check each step, and that there is no other."""
    assert all(step.pop("seconds") >= 0 for step in steps)
    names = [step.pop("step") for step in steps]
    cold, warm, cancel, deadline, violations, quiet, many, *health = steps
    assert names == [
        *("cold_start", "stream", "cancel", "deadline", "violations", "quiet_watch", "many"),
        *(["health"] if example.checks_health else []),
    ]

    assert "MODEL_STATE_STARTING" in cold["statuses"]
    assert cold["chunks"] >= 1
    assert cold["text"]
    assert cold["finish_reason"] in {"FINISH_REASON_LENGTH", "FINISH_REASON_STOP"}

    assert warm["chunks"] >= 1
    assert 0 < warm["first_chunk_seconds"] < 2

    if example.tells_cancel:
        assert is_code(cancel["code"], "CANCELLED"), cancel
    else:
        assert cancel["code"] is None
    assert cancel["free_after_seconds"] < 2

    # By the service, or by the library, whichever comes first.
    code, reason = deadline["code"], deadline.get("reason", "")
    if reason:
        assert (is_code(code, "DEADLINE_EXCEEDED"), reason) == (True, "DEADLINE_PASSED"), deadline
    else:
        assert is_code(code, example.deadline), deadline

    assert is_code(violations["code"], "INVALID_ARGUMENT"), violations
    assert violations["reason"] == "INVALID_PARAMETER"
    assert sorted(violations["fields"]) == ["temperature", "top_p"]

    assert quiet == {"alive": True}

    assert many["ok"] > 0
    assert many["refused"].keys() == {"QUEUE_FULL"}
    assert many["ok"] + many["refused"]["QUEUE_FULL"] == CALLS
    assert many["untyped"] == 0

    for step in health:
        assert step["text"]


@pytest.mark.parametrize(
    "example",
    [pytest.param(each, marks=getattr(pytest.mark, each.mark)) for each in EXAMPLES],
    ids=str,
)
async def test_an_example(example: Example, pytestconfig: pytest.Config) -> None:
    began = time.monotonic()
    steps = await steps_of(example)
    seconds = f"{time.monotonic() - began:.1f}"
    what = ", ".join(f"{step['step']} {step['seconds']:.2f}" for step in steps)

    check(example, steps)

    row = Row(example.language, example.library, example.library_version(), seconds, what)
    pytestconfig.stash[ROWS].append(row)
