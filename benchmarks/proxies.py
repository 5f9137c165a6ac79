"""The systems in front of the engine: the service, its peers and its floors, as command lines."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from benchmarks.systems import BUILD, Absent, CommandLine, System, free_port, service

UVLOOP = BUILD / "uvloop"  # a folder of `pip install --target`

_OWN = (sys.executable, "-m", "benchmarks.service")


def peers() -> list[System]:
    """Return the service and its peers, LiteLLM first, because its start takes longest."""
    ours = metadata.version("inference-service")
    grpcio = f"{metadata.version('grpcio')} (grpcio)"
    return [
        System("litellm", "openai", _installed("litellm"), _litellm),
        System("nginx", "tgi", _nginx_version(), _nginx),
        System("httpx", "tgi", f"{metadata.version('httpx')} (httpx)", _python("naive_proxy")),
        System("relay", "grpc", grpcio, _python("naive_relay")),
        System("grpc", "grpc", ours, service("--no-rest", *_OWN)),
        System("rest", "rest", ours, service("--rest", *_OWN)),
    ]


def chat() -> list[System]:
    """Return the service on its face `chat`, the routers beside it, and the floor."""
    httptools = f"{metadata.version('httptools')} (httptools)"
    return [
        System("vllm-router", "chat", _installed("vllm-router"), _router("vllm-router")),
        System(
            *("sglang-router", "chat", _installed("sglang-router")),
            _router("sglang-router", "launch"),
            ready="/readiness",
        ),
        System("nginx", "chat", _nginx_version(), _nginx),
        System("splice", "chat", httptools, _python("splice")),
        System("splice-uvloop", "chat", _version(UVLOOP, "uvloop"), _splice_on_uvloop),
        System("chat", "chat", metadata.version("inference-service"), _chat),
    ]


def typed() -> list[System]:
    """Return the service on its typed faces, and the floor of a typed stream over gRPC."""
    grpcio = f"{metadata.version('grpcio')} (grpcio)"
    floor = System("grpc-floor", "grpc", grpcio, _python("grpc_floor"))
    return [floor, *(system for system in peers() if system.name in ("grpc", "rest"))]


def _python(module: str, *arguments: str) -> CommandLine:
    return lambda port, engine, _: [
        *(sys.executable, "-m", f"benchmarks.{module}", str(port), str(engine), *arguments)
    ]


def _chat(port: int, engine: int, folder: Path) -> list[str]:
    """Make the command line of the service as it is, which reaches the engine by its URL."""
    flags = ["--catalog", str(_filled("chat.toml", folder, engine, port)), "--runtime", "process"]
    flags += ["--grpc-port", "0", "--rest", "--rest-port", str(port)]
    return [sys.executable, "-m", "inference_service", *flags]


def _splice_on_uvloop(port: int, engine: int, folder: Path) -> list[str]:
    if not _version(UVLOOP, "uvloop"):
        raise Absent("uvloop could not be installed; `make bench` says why")
    return _python("splice", str(UVLOOP.absolute()))(port, engine, folder)


def _router(name: str, *subcommand: str) -> CommandLine:
    """Return the command line of a router in Rust, which writes no line for each request."""

    def command(port: int, engine: int, folder: Path) -> list[str]:
        worker = ["--worker-urls", f"http://127.0.0.1:{engine}", "--policy", "round_robin"]
        own = ["--host", "127.0.0.1", "--port", str(port), "--log-level", "error"]
        metrics = ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port())]
        return [_program(name), *subcommand, *worker, *own, *metrics]

    return command


def _nginx(port: int, engine: int, folder: Path) -> list[str]:
    program = _nginx_program()
    if program is None:
        raise Absent("nginx is not installed: apt-get install nginx")
    config = _filled("nginx.conf", folder, engine, port)
    return [program, "-p", str(folder), "-c", str(config), "-e", "stderr"]


def _nginx_program() -> str | None:
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


def _nginx_version() -> str:
    if (program := _nginx_program()) is None:
        return ""
    output = subprocess.run([program, "-v"], capture_output=True, text=True, check=True).stderr
    return output.strip().rpartition("/")[2]


def _litellm(port: int, engine: int, folder: Path) -> list[str]:
    config = _filled("litellm.yaml", folder, engine, port)
    flags = ["--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    return [_program("litellm"), *flags, "--num_workers", "1"]


def _program(name: str) -> str:
    """Return the program of a peer in an environment of its own. Raises Absent."""
    program = BUILD / name / "bin" / name
    if not program.exists():
        raise Absent(f"{name} could not be installed; `make bench` says why")
    return str(program.absolute())


def _installed(name: str) -> str:
    """Return the version of a peer in an environment of its own, empty if there is none."""
    folders = (BUILD / name).glob("lib/python*/site-packages")
    return next((version for folder in folders if (version := _version(folder, name))), "")


def _version(folder: Path, name: str) -> str:
    [*found] = metadata.distributions(name=name, path=[str(folder)])
    return found[0].version if found else ""


def _filled(template: str, folder: Path, engine: int, port: int) -> Path:
    """Write a file of this package with the ports in it into the folder of a system."""
    text = Path(__file__).with_name(template).read_text()
    path = folder / template
    path.write_text(text.replace("PORT", str(port)).replace("ENGINE", str(engine)))
    return path
