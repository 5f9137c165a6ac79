"""The service that is attacked: a process of its own, with two models of the embedded engine."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from inference_service.engines import kinds
from inference_service.engines.llamacpp.section import LlamacppNeeds
from inference_service.v1 import model_service_pb2 as pb
from inference_service.v1 import model_service_pb2_grpc as pb_grpc
from tests.attack.report import Row
from tests.command import Command, command
from tests.service import free_ports
from tests.waiting import SLOWLY, within

ATTACKED, OTHER = "attacked", "other"  # the models
ATTACKER = "127.0.0.2"  # the attacker's own address

LONGEST_CALLBACK = 250.0  # milliseconds of CPU time
MOST_MEMORY = 384.0  # MiB that an attack may add
LONGEST_WAIT = 30.0  # seconds, of a neighbour
ENDING = 20.0  # seconds from SIGTERM to the end, and to rest after an attack

_FAULTS = ("Traceback", "never retrieved", "was destroyed", "Segmentation")


@dataclass(frozen=True)
class Target:
    """A service that is attacked. Attackers count what they try in `row`, and what they find."""

    row: Row
    command: Command
    log: Path
    folder: Path

    @property
    def pid(self) -> int:
        """The process."""
        return self.command.process.pid

    @property
    def grpc_port(self) -> int:
        """The port of gRPC on 127.0.0.1."""
        return int(self.command.target.rpartition(":")[2])

    @property
    def rest_port(self) -> int:
        """The port of REST on 127.0.0.1."""
        return int(self.command.url.rpartition(":")[2])

    def found(self, what: str) -> None:
        """Note what no service should show."""
        self.row.found[what] += 1

    def status(self, name: str) -> float:
        """Return a number of /proc/PID/status, in MiB where it is memory."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) / 1024
        raise AssertionError(f"no {name}")

    def children(self) -> list[int]:
        """Return the processes that the service has started."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = int(stat.read_text().rpartition(")")[2].split()[1])
            except OSError:  # it has gone meanwhile
                continue
            if parent == self.pid:
                found.append(int(stat.parent.name))
        return found

    async def longest(self) -> float:
        """Return the longest callback since the last call, in milliseconds of CPU time."""
        before = self.log.stat().st_size
        self.command.process.send_signal(signal.SIGUSR1)
        async with within(SLOWLY, "the service did not write its longest callback"):
            while True:
                await asyncio.sleep(0.05)
                for line in self.log.read_bytes()[before:].splitlines(keepends=True):
                    if line.startswith(b"longest ") and line.endswith(b"\n"):
                        return float(line.split()[1])

    async def requests(self) -> int:
        """Return the number of requests that run or wait."""
        async with grpc.aio.insecure_channel(self.command.target) as channel:
            stub: pb_grpc.ModelServiceAsyncStub = pb_grpc.ModelServiceStub(channel)
            listed = await stub.ListModels(pb.ListModelsRequest(), timeout=SLOWLY)
        return sum(m.active_request_count + m.queued_request_count for m in listed.models)

    async def rest(self) -> None:
        """Note the requests that still run some time after the attack."""
        end = time.monotonic() + ENDING
        while left := await self.requests():
            if time.monotonic() > end:
                self.row.found["a request runs on"] += left
                return
            await asyncio.sleep(0.2)

    async def end(self) -> None:
        """End the service with one signal, and note what keeps it or is left."""
        children = self.children()
        self.command.process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(ENDING):
                code = await self.command.process.wait()
        except TimeoutError:
            self.found("SIGTERM did not end the service")
            return
        if code:
            self.found(f"the service ended with {code}")
        self.row.found["a process is left"] += sum(os.path.exists(f"/proc/{c}") for c in children)

    def judge(self) -> None:
        """Fail with what was found."""
        row, text = self.row, self.log.read_text(errors="replace")
        for fault in _FAULTS:
            if fault in text:
                at = text.index(fault)
                self.found(f"in the log: {text[max(0, at - 300) : at + 1500]}")
        row.found = +row.found
        assert not row.found, "\n".join(f"{count} x {what}" for what, count in row.found.items())
        assert row.tried, "nothing was tried"
        assert row.texts, "the neighbour had no text"
        assert row.slowest < LONGEST_WAIT, f"the neighbour waited {row.slowest:.1f} s"
        assert row.longest < LONGEST_CALLBACK, f"a callback took {row.longest:.0f} ms"
        assert row.peak < MOST_MEMORY, f"the service grew by {row.peak:.0f} MiB"


def write_catalog(path: Path, more: str = "") -> None:
    """Write a catalog with two models of the same small weights."""
    weights = kinds.catalog().find("story-mini").needs(LlamacppNeeds).weights.path
    entries = [
        f'[[models]]\nid = "{model_id}"\nhf_name = "org/{model_id}"\ncontext_length = 512\n'
        f'[models.llamacpp]\nmemory = "256MiB"\nweights.path = "{weights}"\n'
        for model_id in (ATTACKED, OTHER)
    ]
    path.write_text("".join(entries) + more)


@asynccontextmanager
async def attacked(
    row: Row, folder: Path, more: str = "", **settings: Any
) -> AsyncGenerator[Target]:
    """Serve for the time of the block, with both models ready; then judge the service.

    `more` is added to the catalog.
    """
    write_catalog(folder / "catalog.toml", more)
    log = folder / "service.log"
    defaults = {
        "runtime": "process",
        "catalog": folder / "catalog.toml",
        "ports": free_ports(12),
        "state_dir": folder / "state",
        "drain_timeout": 2,
    }
    with log.open("wb") as stderr:
        async with command("tests.attack.program", stderr, **defaults | settings) as started:
            target = Target(row, started, log, folder)
            await _warm_up(target)
            await target.longest()
            before = target.status("VmRSS")
            yield target
            row.longest = await target.longest()
            row.peak = target.status("VmHWM") - before
            await target.rest()
            await target.end()
    target.judge()


async def _warm_up(target: Target) -> None:
    async with grpc.aio.insecure_channel(target.command.target) as channel:
        stub: pb_grpc.ModelServiceAsyncStub = pb_grpc.ModelServiceStub(channel)
        for model_id in (ATTACKED, OTHER):
            await stub.StartModel(pb.StartModelRequest(model_id=model_id), timeout=SLOWLY)
