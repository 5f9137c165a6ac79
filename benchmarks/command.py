"""The commands `inference-service` and `rest-bridge` as an operator runs them, each a process."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from benchmarks.systems import Running as Process
from benchmarks.systems import System, free_port
from inference_service.v1 import model_service_pb2 as pb
from inference_service.v1 import model_service_pb2_grpc as pb_grpc

_PATIENCE = 60.0  # seconds for a first answer, and for any other
_LOOK = 0.005  # seconds between two attempts; what a start is measured to
_SERVICE = System("service", "", "", lambda *_: [])


@dataclass(frozen=True, slots=True)
class Memory:
    """Of one process, in MB (10^6 bytes).

    `pss_mb` counts a page that several processes share to each in part: what the machine gives.
    """

    rss_mb: float
    pss_mb: float

    @classmethod
    def of(cls, pid: int | str) -> Memory:
        """As the kernel counts it now (proc_pid_smaps_rollup(5))."""
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        kib = {line.partition(":")[0]: line.split()[1] for line in lines}
        return cls(*(int(kib[name]) * 1024 / 1e6 for name in ("Rss", "Pss")))


@dataclass(frozen=True, slots=True)
class Command:
    """A service that runs, and its ports on 127.0.0.1; one that it does not serve never answers."""

    process: subprocess.Popen[bytes]
    grpc_port: int
    rest_port: int
    engine_port: int

    @property
    def target(self) -> str:
        """Where gRPC is."""
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def memory(self) -> Memory:
        """Of the process, without engines."""
        return Memory.of(self.process.pid)

    def cpu_seconds(self) -> float:
        """User and system time so far, with its engines."""
        return Process(_SERVICE, self.process.pid, self.grpc_port).cpu_seconds()

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        """POST to REST; raises AssertionError for what is no success."""
        return request(self.rest_port, "POST", path, json.dumps(body).encode())

    def info(self) -> None:
        """GetInfo over gRPC, on a channel of its own."""
        with grpc.insecure_channel(self.target) as channel:
            pb_grpc.ModelServiceStub(channel).GetInfo(pb.GetInfoRequest(), timeout=_PATIENCE)

    def root(self) -> None:
        """GET / of REST."""
        request(self.rest_port, "GET", "/")


def request(port: int, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
    """One request on a connection of its own; raises AssertionError for what is no success."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        text = response.read()
        assert response.status == 200, text
        answer: dict[str, Any] = json.loads(text)
        return answer
    finally:
        connection.close()


@contextmanager
def started(*flags: str, module: str = "inference_service") -> Iterator[Command]:
    """Begin to run it on free ports, with state of its own; nothing answers yet.

    `module` may be `rest_bridge`, or `benchmarks.service PORT`, whose flags are the service's.
    """
    grpc_port, rest_port, engine_port = free_port(), free_port(), free_port()
    named = [f"--port={rest_port}"]
    if module != "rest_bridge":
        named = [f"--grpc-port={grpc_port}", f"--rest-port={rest_port}"]
        named.append(f"--ports={engine_port}-{engine_port}")
    with tempfile.TemporaryDirectory() as state:
        process = subprocess.Popen(
            [sys.executable, "-m", *module.split(), *named, *flags],
            env={**os.environ, "XDG_STATE_HOME": state},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        try:
            yield Command(process, grpc_port, rest_port, engine_port)
        finally:
            process.terminate()
            process.wait()


@contextmanager
def serving(*flags: str, module: str = "inference_service") -> Iterator[Command]:
    """Run it; its last face answers: REST, or gRPC where it has `--no-rest`."""
    with started(*flags, module=module) as command:
        until(command.info if "--no-rest" in flags else command.root)
        yield command


def until(ask: Callable[[], None]) -> float:
    """Ask until it is answered; returns the seconds that took."""
    began = time.monotonic()
    while True:
        try:
            ask()
            return time.monotonic() - began
        except (OSError, grpc.RpcError, http.client.HTTPException):
            if time.monotonic() - began > _PATIENCE:
                raise
            time.sleep(_LOOK)
