"""A whole service in the test's own loop, on free ports, with a client of each protocol."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import time
from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc
import httpx
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from inference_service.runtimes.ports import Ports
from inference_service.server import Service, running
from inference_service.settings import Settings
from inference_service.v1 import model_service_pb2_grpc as pb_grpc

PROMPT = "Once upon a time"

T = TypeVar("T")


@dataclass(frozen=True)
class Serving:
    """A service that runs, and a client of each protocol."""

    service: Service
    channel: grpc.aio.Channel
    stub: pb_grpc.ModelServiceAsyncStub
    http: httpx.AsyncClient


@asynccontextmanager
async def serving(
    claims: Ports | None = None, *, count: int = 1, **changes: Any
) -> AsyncGenerator[Serving]:
    """Run the service: by default on the embedded runtime, with the ports of its settings."""
    defaults = {"grpc_port": 0, "rest_port": 0, "runtime": "process", "drain_timeout": 5}
    settings = Settings.model_validate(defaults | changes)
    async with (
        running(settings, claims, count=count) as service,
        grpc.aio.insecure_channel(service.target) as channel,
    ):
        assert service.rest_url is not None
        async with httpx.AsyncClient(
            base_url=service.rest_url, timeout=60, trust_env=False
        ) as http:
            yield Serving(service, channel, pb_grpc.ModelServiceStub(channel), http)


@dataclass(frozen=True)
class Failure:
    """An error status, taken apart."""

    code: grpc.StatusCode
    message: str
    reason: str
    metadata: dict[str, str]
    details: dict[str, Message]


def failure(error: grpc.RpcError) -> Failure:
    """Return the status with which a call has failed. It has exactly one ErrorInfo."""
    assert isinstance(error, grpc.aio.AioRpcError)
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    assert isinstance(status, status_pb2.Status), error
    found: dict[str, Message] = {}
    for kind in ("ErrorInfo", "BadRequest", "RetryInfo", "DebugInfo"):
        for packed in status.details:
            message = getattr(error_details_pb2, kind)()
            if packed.Unpack(message):
                assert kind not in found
                found[kind] = message
    info = found["ErrorInfo"]
    assert isinstance(info, error_details_pb2.ErrorInfo)
    assert info.domain == "inference-service"
    return Failure(error.code(), status.message, info.reason, dict(info.metadata), found)


def free(port: int) -> bool:
    """Return whether nothing listens on this port of 127.0.0.1."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def free_ports(count: int) -> str:
    """Return a range of `count` ports that are free now, for the setting `ports`."""
    for _ in range(1000):  # at random, since another run of the tests may choose at the same time
        first = random.randrange(20000, 30000)
        if all(free(port) for port in range(first, first + count)):
            return f"{first}-{first + count - 1}"
    raise AssertionError("no ports are free")


def engines() -> list[int]:
    """Return the engine processes of this process."""
    found = []
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = status.read_bytes().split(b"\0")
            parent = (status.parent / "stat").read_text().rsplit(")", 1)[1].split()[1]
        except OSError:  # it has gone meanwhile
            continue
        if b"inference_service.worker" in words and int(parent) == _me():
            found.append(int(status.parent.name))
    return found


async def killed_after(engine: int, first: Awaitable[T]) -> T:
    """Await the first event of a text, then kill the engine, which cannot have ended the text.

    The engine runs for two milliseconds at a time, and a text of 100 tokens takes 50. It runs on
    the core of this thread, and only while no other process needs that core: on a busy machine both
    wait.
    """
    task = asyncio.ensure_future(first)
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    for thread in Path(f"/proc/{engine}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {min(cores)})
        os.sched_setscheduler(int(thread.name), os.SCHED_IDLE, os.sched_param(0))
    while not task.done():
        os.kill(engine, signal.SIGCONT)
        time.sleep(0.002)  # noqa: ASYNC251  # a busy loop would delay the next line
        os.kill(engine, signal.SIGSTOP)
        await asyncio.wait([task], timeout=0.02)
    os.kill(engine, signal.SIGKILL)
    os.sched_setaffinity(0, cores)
    return await task


def _me() -> int:
    return int(Path("/proc/self").resolve().name)
