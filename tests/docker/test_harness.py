"""The test bed itself: its images run, its servers answer, and nothing is left."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import docker
import pytest
from docker import DockerClient
from docker.errors import APIError, NotFound
from docker.models.containers import Container

from . import images
from .building import LABEL
from .daemon import Daemon, answers
from .needs import require_daemon, require_private_daemon, require_registry
from .registry import Registry
from .slim import python_slim
from .waiting import until

pytestmark = pytest.mark.docker

HTTP = ["python", "-m", "http.server", "8000"]


@pytest.fixture
def client() -> Iterator[DockerClient]:
    require_daemon()
    with closing(docker.from_env()) as client:
        yield client


@pytest.fixture
def registry() -> Iterator[Registry]:
    require_registry()
    with Registry() as registry:
        yield registry


@contextmanager
def running(client: DockerClient, image: str, *command: str, **options: Any) -> Iterator[Container]:
    ports: Any = {f"{port}/tcp": ("127.0.0.1", None) for port in (80, 8000)}
    container = client.containers.create(image, [*command], init=True, ports=ports, **options)
    try:
        container.start()
        yield container
    finally:
        container.remove(force=True, v=True)


def fetch(container: Container, path: str, port: int = 8000, data: Any = None) -> bytes:
    """Send the container a request as soon as it serves."""
    container.reload()
    published = container.attrs["NetworkSettings"]["Ports"][f"{port}/tcp"][0]["HostPort"]
    body = json.dumps(data).encode() if data else None
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{published}{path}", body, headers)
    answers: list[bytes] = []

    def served() -> bool:
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                answers.append(answer.read())
        except OSError:
            return False
        return True

    until(served, 30, f"the answer to {path}")
    return answers[0]


def pull(client: DockerClient, reference: str) -> list[dict[str, Any]]:
    return list(client.api.pull(reference, stream=True, decode=True))


SCRIPT = """
import asyncio, bz2, ctypes, lzma, sqlite3, ssl, sys
print(ssl.create_default_context().cert_store_stats()["x509_ca"] > 0, sys.version)
"""


def test_base_runs_the_interpreter_of_the_tests(client: DockerClient) -> None:
    command = ["python", "-c", SCRIPT]

    output = client.containers.run(images.python_base(client), command, user="10001", remove=True)

    assert output.decode().strip() == f"True {sys.version}"


def test_base_is_small_and_built_once(client: DockerClient) -> None:
    first = client.images.get(images.python_base(client))
    second = client.images.get(images.python_base(client))

    assert first.id == second.id
    assert first.attrs["Size"] < 90_000_000


def test_tgi_double_serves_on_port_80_and_ends_on_request(client: DockerClient) -> None:
    environment = {"MODEL_ID": "gpt2"}
    with running(client, images.tgi_double(client), environment=environment) as container:
        info = json.loads(fetch(container, "/info", port=80))
        container.stop()
        end = container.wait()

    assert info["model_id"] == "gpt2"
    assert end["StatusCode"] == 0


def complete(client: DockerClient, image: str) -> str:
    """Return the start of a story, by a container as bare as inference-service makes it."""
    models = str(images.REPOSITORY / "inference_service" / "story_mini")
    options = {
        "environment": {"LLAMACPP_FILE": "/models/story-mini.gguf"},
        "volumes": {models: {"bind": "/models", "mode": "ro"}},
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "read_only": True,
        "tmpfs": {"/tmp": "size=64m"},
    }
    with running(client, image, **options) as container:
        prompt = {"prompt": "Once upon a time", "n_predict": 16}
        answer: str = json.loads(fetch(container, "/completion", data=prompt))["content"]
        container.stop()
        assert container.wait()["StatusCode"] == 0
    return answer


def test_llamacpp_image_writes_a_story(client: DockerClient) -> None:
    assert len(complete(client, images.llamacpp(client)).split()) > 3


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_real_dockerfile_gives_the_same(client: DockerClient, tmp_path: Path) -> None:
    packages = [sys.executable, "-m", "pip", "--retries=0", "download", "--no-deps", "idna"]
    if subprocess.run(packages, cwd=tmp_path, capture_output=True).returncode != 0:
        pytest.skip("no package index answers")
    base, quick, tag = python_slim(client), images.llamacpp(client), f"{LABEL}/dockerfile:1"
    build = ["/usr/bin/docker", "build", "--build-arg", f"BASE={base}", "--tag", tag]
    build += ["--label", LABEL, "--file", "deploy/llamacpp/Dockerfile", "."]
    environment = os.environ | {"DOCKER_BUILDKIT": "1"}

    subprocess.run(build, cwd=images.REPOSITORY, env=environment, check=True)

    assert len(complete(client, tag).split()) > 3
    real, fast = (client.images.get(name).attrs["Config"] for name in (tag, quick))
    for key in ("Entrypoint", "ExposedPorts", "WorkingDir", "User"):
        assert real[key] == fast[key]


def test_missing_command_ends_under_init(client: DockerClient) -> None:
    with running(client, images.missing_command(client)) as container:
        assert container.wait()["StatusCode"] == 127
        assert b"No such file or directory" in container.logs()


def test_missing_command_cannot_be_started_without_init(client: DockerClient) -> None:
    container = client.containers.create(images.missing_command(client))
    try:
        with pytest.raises(APIError, match="no such file or directory"):
            container.start()
    finally:
        container.remove()


def test_early_exit_writes_why(client: DockerClient) -> None:
    with running(client, images.early_exit(client)) as container:
        assert container.wait()["StatusCode"] == 3
        assert container.logs() == b"cannot go on\n"


def test_memory_hog_is_killed_for_it(client: DockerClient) -> None:
    limit = {"mem_limit": "64m", "memswap_limit": "64m"}
    with running(client, images.memory_hog(client), **limit) as container:
        assert container.wait()["StatusCode"] == 137
        container.reload()
        assert container.attrs["State"]["OOMKilled"]


def test_registry_gives_back_what_was_pushed(client: DockerClient, registry: Registry) -> None:
    # A size that no other run of the tests has: its layers must be nowhere else in the daemon.
    image = images.ballast(client, [2_000_000 + os.getpid(), 3_000_000 + os.getpid()])
    reference = registry.push(client, image, "ballast:1")
    client.images.remove(image)

    events = pull(client, reference)
    client.images.remove(reference)

    loading = [event for event in events if event["status"] == "Downloading"]
    totals = {event["id"]: event["progressDetail"]["total"] for event in loading}
    assert len(totals) == 2
    assert sum(totals.values()) > 5_000_000
    assert events[-1]["status"] == f"Status: Downloaded newer image for {reference}"


def test_registry_goes_away_and_comes_back(client: DockerClient, registry: Registry) -> None:
    reference = registry.push(client, images.early_exit(client), "early-exit:1")

    registry.stop()
    with pytest.raises(APIError, match="connection refused"):
        client.api.pull(reference)
    registry.start()
    pull(client, reference)

    client.images.remove(reference)
    with pytest.raises(NotFound, match="manifest unknown"):
        client.api.pull(registry.address + "/early-exit:2")


def traces(daemon: Daemon) -> list[str]:
    """List the traces of a daemon: processes, mounts, its folder and its bridge."""
    folder = str(daemon.folder)
    commands = [read(path) for path in Path("/proc").glob("[0-9]*/cmdline")]
    mounts = read(Path("/proc/self/mounts")).splitlines()
    devices = [Path("/sys/class/net", daemon.bridge), daemon.folder]
    found = [line for line in (*commands, *mounts) if folder in line]
    return found + [str(device) for device in devices if device.exists()]


def read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # the process has ended since
        return ""


@pytest.mark.parametrize("crash", [False, True])
def test_daemon_is_private_and_leaves_nothing(client: DockerClient, crash: bool) -> None:
    require_private_daemon()
    with Daemon() as daemon:
        assert daemon.client.info()["DockerRootDir"] != client.info()["DockerRootDir"]
        image = images.python_base(daemon.client)
        # Left there for the daemon to remove.
        daemon.client.containers.run(image, HTTP, detach=True, init=True)
        assert len(traces(daemon)) > 4
        if crash:
            daemon.kill()

    assert traces(daemon) == []


def test_containers_survive_a_daemon_with_live_restore(client: DockerClient) -> None:
    require_private_daemon()
    with Daemon(live_restore=True) as daemon:
        image = images.python_base(daemon.client)
        with running(daemon.client, image, *HTTP) as container:
            fetch(container, "/")
            before = container.attrs["State"]["Pid"]
            for end in (daemon.stop, daemon.kill):
                end()
                assert not answers(daemon.folder / "docker.sock")
                daemon.start()
                fetch(container, "/")
                assert container.attrs["State"]["Pid"] == before


def test_daemon_with_a_full_disk(client: DockerClient, registry: Registry) -> None:
    require_private_daemon()
    reference = registry.push(client, images.python_base(client), "python:1")
    with Daemon(disk_bytes=40_000_000) as daemon:
        events = pull(daemon.client, reference)

    assert "no space left on device" in events[-1]["error"]
