"""The processes that are measured, each in front of the engine: start, clocks, memory, end."""

from __future__ import annotations

import http.client
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

BUILD = Path("build/bench")
RUNS = BUILD / "run"  # has a folder for the files of each system

_START_PATIENCE = 120.0  # seconds; LiteLLM alone needs more than ten

# The system under test has a core of its own; engine and load share another.
_CORES = sorted(os.sched_getaffinity(0))
PINNED = len(_CORES) > 1


CommandLine = Callable[[int, int, Path], list[str]]


class Absent(Exception):
    """A system that cannot be measured here; the message names what is missing."""


@dataclass(frozen=True, slots=True)
class System:
    """A kind of system. `face` names the protocol of `load.py` for requests to the system.

    `command` makes the command line from the system's port, the engine's port, and a folder for
    files of the system. It raises Absent. A system with a path `ready` listens before it can serve:
    the path is answered with 200 when it can.
    """

    name: str
    face: str
    version: str
    command: CommandLine
    cwd: Path | None = None  # None for the current folder
    ready: str = ""


@dataclass(frozen=True, slots=True)
class Running:
    """A running system, on `port` of 127.0.0.1."""

    system: System
    pid: int
    port: int

    def cpu_seconds(self) -> float:
        """Return the user and system time of all processes so far, by their own clocks."""
        return sum(time.clock_gettime(_cpu_clock(pid)) for pid in family(self.pid))

    def memory_bytes(self) -> int:
        """Return the resident memory of all processes; each counts the pages that they share."""
        page = os.sysconf("SC_PAGE_SIZE")
        files = (Path(f"/proc/{pid}/statm") for pid in family(self.pid))
        return sum(int(file.read_text().split()[1]) * page for file in files)


def pinned(core: int, command: list[str]) -> list[str]:
    """Bind a command to one core, where there is more than one."""
    return ["taskset", "-c", str(_CORES[core]), *command] if PINNED else command


@contextmanager
def engine(face: str = "tgi") -> Iterator[Running]:
    """Run the engine, which is also the system `direct`, asked by this face."""
    direct = System("direct", face, "engine.c", lambda port, *_: [str(BUILD / "engine"), str(port)])
    with _process(direct, 1, free_port(), 0) as running:
        yield running


@contextmanager
def running(
    engine_port: int, systems: Iterable[System]
) -> Iterator[tuple[dict[str, Running], dict[str, str]]]:
    """Run systems in front of the engine; give the reason of each absent one."""
    found: dict[str, Running] = {}
    absent: dict[str, str] = {}
    with ExitStack() as stack:
        for system in systems:
            try:
                process = _process(system, 0, free_port(), engine_port)
                found[system.name] = stack.enter_context(process)
            except Absent as reason:
                absent[system.name] = str(reason)
        yield found, absent


def checkout(folder: Path, *names: str) -> list[System]:
    """Return the service of a checkout, once for each name, which begins with its face."""
    python = folder / ".venv/bin/python"
    script = Path(__file__).with_name("checkout.py")
    program = [str(python if python.exists() else sys.executable), "-P", str(script), str(folder)]
    flags = {"grpc": "--no-rest", "rest": "--rest"}
    faces = {name: name.partition("-")[0] for name in names}
    return [
        System(name, face, version(folder), service(flags[face], *program), folder)
        for name, face in faces.items()
    ]


def version(folder: Path) -> str:
    """Return the commit of a checkout, with `-dirty` where files differ; empty without git."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def service(rest: str, *program: str) -> CommandLine:
    """Return the command line of the service with one face: `rest` is `--rest` or `--no-rest`.

    `program` is followed by the engine's port and by flags of `inference-service`.
    """

    def command(port: int, engine: int, folder: Path) -> list[str]:
        ports = {"--grpc-port": port, "--rest-port": 0}
        if rest == "--rest":
            ports = {"--grpc-port": 0, "--rest-port": port}
        flags = [text for pair in ports.items() for text in map(str, pair)]
        return [*program, str(engine), rest, *flags]

    return command


@contextmanager
def _process(system: System, core: int, port: int, engine_port: int) -> Iterator[Running]:
    folder = RUNS / system.name
    folder.mkdir(parents=True, exist_ok=True)
    command = pinned(core, system.command(port, engine_port, folder.absolute()))
    environment = {**os.environ, "NO_PROXY": "127.0.0.1", "LITELLM_LOCAL_MODEL_COST_MAP": "true"}
    environment["XDG_STATE_HOME"] = str(folder.absolute())
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=system.cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        _await_listener(system, process, port, folder / "log")
        yield Running(system, process.pid, port)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_listener(system: System, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_PATIENCE
    while not _serves(system, port):
        if process.poll() is not None or time.monotonic() > deadline:
            last = log.read_text(errors="replace").strip().splitlines()[-1:]
            raise Absent(f"{system.name} does not come up: {''.join(last)[:200]}")
        time.sleep(0.1)


def _serves(system: System, port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.connect()
        if not system.ready:
            return True
        connection.request("GET", system.ready)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def free_port() -> int:
    """Return a port of 127.0.0.1 that is free now, and that no client gets from the kernel."""
    for port in random.sample(range(20000, 30000), 100):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no port is free")


def _cpu_clock(pid: int) -> int:
    """Return the clock of all threads of a process, as clock_getcpuclockid(3) does."""
    return ~pid << 3 | 2


def family(pid: int) -> list[int]:
    """Return a process and its descendants."""
    members = [pid]
    for member in members:
        for children in Path(f"/proc/{member}/task").glob("*/children"):
            members += map(int, children.read_text().split())
    return members
