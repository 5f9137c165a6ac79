"""The systems that are measured: how each runs in front of the engine."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

BUILD = Path("build/bench")
LITELLM = BUILD / "litellm/bin/litellm"

_OWN = (sys.executable, "-m", "benchmarks.service")
_START_PATIENCE = 120.0  # seconds; LiteLLM alone needs more than ten

# The system under test has a core of its own; engine and load share another.
_CORES = sorted(os.sched_getaffinity(0))
PINNED = len(_CORES) > 1


class Absent(Exception):
    """A system that cannot be measured here; the message names what is missing."""


@dataclass(frozen=True, slots=True)
class System:
    """A kind of system. `face` names the protocol of `load.py` for requests to the system.

    `command` makes the command line from the system's port, the engine's port, and a folder for
    files of the system. It raises Absent.
    """

    name: str
    face: str
    version: str
    command: Callable[[int, int, Path], list[str]]
    cwd: Path | None = None  # None for the current folder


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
def engine() -> Iterator[Running]:
    """Run the engine, which is also the system `direct`."""
    direct = System(
        "direct", "tgi", "engine.c", lambda port, *_: [str(BUILD / "engine"), str(port)]
    )
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


def peers() -> list[System]:
    """Return the service and its peers, LiteLLM first, because its start takes longest."""
    ours = f"{metadata.version('grpcio')} (grpcio)"
    return [
        System("litellm", "openai", _litellm_version(), _litellm),
        System("nginx", "tgi", _nginx_version(), _nginx),
        System("httpx", "tgi", f"{metadata.version('httpx')} (httpx)", _python("naive_proxy")),
        System("relay", "grpc", ours, _python("naive_relay")),
        System("grpc", "grpc", metadata.version("inference-service"), _service("--no-rest", *_OWN)),
        System("rest", "rest", metadata.version("inference-service"), _service("--rest", *_OWN)),
    ]


def _python(module: str) -> Callable[[int, int, Path], list[str]]:
    return lambda port, engine, _: [
        *(sys.executable, "-m", f"benchmarks.{module}", str(port), str(engine))
    ]


def checkout(folder: Path, *names: str) -> list[System]:
    """Return the service of a checkout, once for each name, which begins with its face."""
    python = folder / ".venv/bin/python"
    script = Path(__file__).with_name("checkout.py")
    program = [str(python if python.exists() else sys.executable), "-P", str(script), str(folder)]
    flags = {"grpc": "--no-rest", "rest": "--rest"}
    faces = {name: name.partition("-")[0] for name in names}
    return [
        System(name, face, version(folder), _service(flags[face], *program), folder)
        for name, face in faces.items()
    ]


def version(folder: Path) -> str:
    """Return the commit of a checkout, with `-dirty` where files differ; empty without git."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _service(rest: str, *program: str) -> Callable[[int, int, Path], list[str]]:
    def command(port: int, engine: int, folder: Path) -> list[str]:
        ports = {"--grpc-port": port, "--rest-port": 0}
        if rest == "--rest":
            ports = {"--grpc-port": 0, "--rest-port": port}
        flags = [text for pair in ports.items() for text in map(str, pair)]
        return [*program, str(engine), rest, *flags]

    return command


def _nginx(port: int, engine: int, folder: Path) -> list[str]:
    program = _nginx_program()
    if program is None:
        raise Absent("nginx is not installed: apt-get install nginx")
    template = Path(__file__).with_name("nginx.conf").read_text()
    config = folder / "nginx.conf"
    config.write_text(template.replace("PORT", str(port)).replace("ENGINE", str(engine)))
    return [program, "-p", str(folder), "-c", str(config), "-e", "stderr"]


def _nginx_program() -> str | None:
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


def _nginx_version() -> str:
    if (program := _nginx_program()) is None:
        return ""
    output = subprocess.run([program, "-v"], capture_output=True, text=True, check=True).stderr
    return output.strip().rpartition("/")[2]


def _litellm(port: int, engine: int, folder: Path) -> list[str]:
    if not LITELLM.exists():
        raise Absent("LiteLLM could not be installed; `make bench` says why")
    template = Path(__file__).with_name("litellm.yaml").read_text()
    config = folder / "litellm.yaml"
    config.write_text(template.replace("ENGINE", str(engine)))
    flags = ["--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    return [str(LITELLM.absolute()), *flags, "--num_workers", "1"]


def _litellm_version() -> str:
    found = LITELLM.parent.parent.glob("lib/python*/site-packages/litellm-*.dist-info")
    return next((path.name.split("-")[1].removesuffix(".dist") for path in found), "")


@contextmanager
def _process(system: System, core: int, port: int, engine_port: int) -> Iterator[Running]:
    folder = BUILD / system.name
    if system.name == "litellm":
        folder = BUILD / "litellm-run"  # `litellm` is its virtual environment
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
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.1)
                continue
        last = log.read_text(errors="replace").strip().splitlines()[-1:]
        raise Absent(f"{system.name} does not come up: {''.join(last)[:200]}")


def free_port() -> int:
    """Return a port of 127.0.0.1 that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


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
