"""Cold starts up to the first text, and memory and CPU of an idle service."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import docker
from docker.errors import DockerException, NotFound

from benchmarks.command import Command, request, serving, started, until
from inference_service import catalog
from tests.docker import images

_NAME = f"inference-service-bench-{os.getpid()}"
_DOUBLE = """\
[[models]]
id = "double"
hf_name = "org/double"
context_length = 512
[models.tgi]
memory = "256MiB"
weights = { repo = "org/double" }
[models.tgi.env]
DOUBLE_LOAD_SECONDS = "0"
DOUBLE_DOWNLOAD_SECONDS = "0"
DOUBLE_TOKENS_PER_SECOND = "0"
"""

_EMBEDDED = "--runtime=process"

Times = dict[str, list[float]]  # seconds, one for each round


def measure(rounds: int, idle: float) -> dict[str, Any]:
    """Measure starts and first texts `rounds` times, and the idle service for `idle` seconds."""
    return {
        "start": _start(rounds),
        "embedded": _embedded(rounds),
        "docker": _docker(rounds),
        "at rest": _at_rest(idle),
        "imports": _imports(),
    }


def _start(rounds: int) -> Times:
    """Measure the command up to its first answer, in seconds and in CPU time.

    Other programs slow the wall clock alone.
    """
    times: Times = {}
    for name, ask in {"GetInfo": Command.info, "GET /": Command.root}.items():
        readings = [_first_answer(ask) for _ in range(rounds)]
        times[name], times[f"{name}, CPU"] = map(list, zip(*readings, strict=True))
    return times


def _first_answer(ask: Callable[[Command], None]) -> tuple[float, float]:
    began = time.monotonic()
    with started(_EMBEDDED) as command:
        until(lambda: ask(command))
        return time.monotonic() - began, command.cpu_seconds()


def _embedded(rounds: int) -> Times:
    """Measure texts of a cold and of a warm model, and the worker alone."""
    times: Times = {"cold": [], "engine alone": [], "warm": []}
    with serving(_EMBEDDED) as command:
        for _ in range(rounds):
            times["engine alone"].append(_worker())
            times["cold"].append(_text(command, "story-mini"))
            times["warm"].append(_text(command, "story-mini"))
            command.post("/models/story-mini/stop")
    return times


def _text(command: Command, model: str) -> float:
    began = time.monotonic()
    answer = command.post("/generate", model_id=model, prompt="Once upon a time", max_new_tokens=16)
    assert answer["generated_text"], answer
    return time.monotonic() - began


def _worker() -> float:
    weights = Path(catalog.__file__).with_name("story_mini") / "story-mini.gguf"
    settings = {"LLAMACPP_FILE": str(weights), "LLAMACPP_CONTEXT": "512", "LLAMACPP_SLOTS": "8"}
    began = time.monotonic()
    worker = [sys.executable, "-m", "inference_service.worker"]
    with subprocess.Popen(worker, env=os.environ | settings, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert any(b'"serving"' in line for line in process.stdout), (
            "the worker ended before it served"
        )
        took = time.monotonic() - began
        process.terminate()
    return took


def _docker(rounds: int) -> Times | str:
    """Measure texts of a model in Docker, and its container without the service.

    TGI's double loads nothing, so the difference is the time of the service itself. Returns a
    sentence if no Docker daemon answers.
    """
    try:
        client = docker.from_env()
    except DockerException as error:
        return f"not measured: {error}"
    times: Times = {"cold": [], "engine alone": [], "warm": []}
    with ExitStack() as stack:
        stack.callback(client.close)
        stack.callback(_remove_volume, client)
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        path = Path(folder, "catalog.toml")
        path.write_text(_DOUBLE)
        flags = ["--runtime=docker", f"--catalog={path}", f"--service-name={_NAME}"]
        flags += [f"--volume={_NAME}", f"--tgi-image={images.tgi_double(client)}"]
        command = stack.enter_context(serving(*flags))
        _text(command, "double")  # fetches the weights for all rounds
        for _ in range(rounds):
            launch = client.api.inspect_container(f"{_NAME}-tgi-double")
            command.post("/models/double/stop")
            times["engine alone"].append(_container(client, launch, command.engine_port))
            times["cold"].append(_text(command, "double"))
            times["warm"].append(_text(command, "double"))
        command.post("/models/double/stop")
    return times


def _container(client: docker.DockerClient, launch: dict[str, Any], port: int) -> float:
    """Return the seconds from creating a container until its engine answers /health."""
    config = {key: launch["Config"][key] for key in ("Image", "Cmd", "Env", "ExposedPorts")}
    config["HostConfig"] = launch["HostConfig"]
    began = time.monotonic()
    container = client.api.create_container_from_config(config, f"{_NAME}-alone")  # type: ignore[no-untyped-call]
    try:
        client.api.start(container["Id"])
        until(lambda: _healthy(port))
        return time.monotonic() - began
    finally:
        client.api.remove_container(container["Id"], force=True, v=True)


def _healthy(port: int) -> None:
    with suppress(json.JSONDecodeError):  # the body of /health is empty
        request(port, "GET", "/health")


def _remove_volume(client: docker.DockerClient) -> None:
    with suppress(NotFound):
        client.volumes.get(_NAME).remove()


def _at_rest(seconds: float) -> dict[str, dict[str, float]]:
    """Measure memory in MB and CPU, as a share of one core, of idle processes."""
    names = [f"--service-name={_NAME}-{number}" for number in range(2)]
    with ExitStack() as stack:
        bare = stack.enter_context(serving(names[0], "--no-rest"))
        whole = stack.enter_context(serving(names[1]))
        bridge = serving(f"--target={bare.target}", module="rest_bridge")
        named = {"service": bare, "service with REST": whole}
        named["bridge"] = stack.enter_context(bridge)
        before = {name: command.cpu_seconds() for name, command in named.items()}
        time.sleep(seconds)
        return {
            name: asdict(command.memory)
            | {"cpu_share": (command.cpu_seconds() - before[name]) / seconds}
            for name, command in named.items()
        }


def _imports() -> dict[str, dict[str, float]]:
    command = [sys.executable, "-m", "benchmarks.imports"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    added: dict[str, dict[str, float]] = json.loads(done.stdout)
    return added
