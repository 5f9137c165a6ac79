"""The commands `inference-service` and `rest-bridge`, each as a process of its own."""

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
from benchmarks.systems import System, family, free_port
from inference_service.v1 import model_service_pb2 as pb
from inference_service.v1 import model_service_pb2_grpc as pb_grpc

_PATIENCE = 60.0  # seconds for a first answer, and for any other
_LOOK = 0.005  # seconds between two attempts, so the precision of a measured start
_SERVICE = System("service", "", "", lambda *_: [])


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of one process, in MB (10^6 bytes).

    `pss_mb` divides each page by the number of processes that share it.
    """

    rss_mb: float
    pss_mb: float

    @classmethod
    def of(cls, pid: int | str) -> Memory:
        """Read the memory of a process from the kernel (proc_pid_smaps_rollup(5))."""
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        kib = {line.partition(":")[0]: line.split()[1] for line in lines}
        return cls(*(int(kib[name]) * 1024 / 1e6 for name in ("Rss", "Pss")))


@dataclass(frozen=True, slots=True)
class Command:
    """A service that runs, and its ports on 127.0.0.1.

    Nothing answers on the port of a face that the command line turns off.
    """

    process: subprocess.Popen[bytes]
    grpc_port: int
    rest_port: int
    engine_port: int

    @property
    def target(self) -> str:
        """Address of the gRPC server."""
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def memory(self) -> Memory:
        """Memory of the process, without engines."""
        return Memory.of(self.process.pid)

    @property
    def engine_key(self) -> str:
        """Return the key of the engine, as its environment has it; empty without an engine."""
        for pid in family(self.process.pid):
            for variable in Path(f"/proc/{pid}/environ").read_text().split("\0"):
                if variable.startswith("LLAMACPP_API_KEY="):
                    return variable.partition("=")[2]
        return ""

    def cpu_seconds(self) -> float:
        """Return the user and system time so far, engines included."""
        return Process(_SERVICE, self.process.pid, self.grpc_port).cpu_seconds()

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        """POST to REST. Raises AssertionError for any status but 200."""
        return request(self.rest_port, "POST", path, json.dumps(body).encode())

    def info(self) -> None:
        """Call GetInfo over gRPC, on a new channel."""
        with grpc.insecure_channel(self.target) as channel:
            pb_grpc.ModelServiceStub(channel).GetInfo(pb.GetInfoRequest(), timeout=_PATIENCE)

    def root(self) -> None:
        """Call GET / over REST."""
        request(self.rest_port, "GET", "/")


def request(port: int, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
    """Send one request on a new connection. Raises AssertionError for any status but 200."""
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
    """Begin to run a service on free ports, with a new state folder.

    The service does not answer yet.
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
    """Run a service, and wait until REST answers, or gRPC with `--no-rest`."""
    with started(*flags, module=module) as command:
        until(command.info if "--no-rest" in flags else command.root)
        yield command


def until(ask: Callable[[], None]) -> float:
    """Repeat a call until an answer comes; returns the seconds that this took."""
    began = time.monotonic()
    while True:
        try:
            ask()
            return time.monotonic() - began
        except (OSError, grpc.RpcError, http.client.HTTPException):
            if time.monotonic() - began > _PATIENCE:
                raise
            time.sleep(_LOOK)
