"""The service in a container, with the socket of the daemon that runs it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from docker import DockerClient
from docker.models.containers import Container
from docker.types import Mount

from tests.docker import images
from tests.docker.daemon import Daemon
from tests.docker.needs import require_private_daemon
from tests.docker.waiting import until

pytestmark = pytest.mark.docker

NAME = f"inside-{os.getpid()}"
ASK = """\
import json, sys, urllib.error, urllib.request
path, body = sys.argv[1:]
request = urllib.request.Request("http://127.0.0.1:8000" + path, body.encode() or None)
request.add_header("content-type", "application/json")
try:
    print(urllib.request.urlopen(request, timeout=60).read().decode())
except urllib.error.HTTPError as error:
    print(error.read().decode())
"""


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """A daemon in whose network containers reach each other, with the images of these tests."""
    require_private_daemon()
    with Daemon(apart=True) as daemon:
        images.service(daemon.client)
        images.tgi_double(daemon.client)
        yield daemon


@contextmanager
def inside(daemon: Daemon, *arguments: str, **options: Any) -> Iterator[Container]:
    """Run the service in a container."""
    client = daemon.client
    words = ["--runtime", "docker", "--service-name", NAME, "--volume", NAME, *arguments]
    words += ["--tgi-image", images.tgi_double(client), "--drain-timeout", "5"]
    socket = daemon.url.removeprefix("unix://")
    volumes = {socket: {"bind": "/var/run/docker.sock", "mode": "rw"}}
    image = images.service(client)
    container = client.containers.create(image, words, name=NAME, volumes=volumes, **options)
    try:
        container.start()
        yield container
        container.stop(timeout=30)
        assert engines(client) == []
    finally:
        container.remove(force=True)
        for each in engines(client):
            each.remove(force=True)


def engines(client: DockerClient) -> list[Container]:
    label = f"inference-service.service={NAME}"
    return client.containers.list(all=True, filters={"label": label})


def serves(container: Container) -> None:
    def serves() -> bool:
        container.reload()
        assert container.status == "running", container.logs().decode()
        return b"REST " in container.logs()

    until(serves, 30, "the start of the service")


def ask(container: Container, path: str, **body: Any) -> Any:
    """Send the service a request of REST, from inside its container."""
    text = json.dumps(body) if body else ""
    done = container.exec_run(["python", "-c", ASK, path, text], environment={"PYTHONPATH": ""})
    assert isinstance(done.output, bytes)
    return json.loads(done.output)


def writes(daemon: Daemon, container: Container) -> list[str]:
    """Let a model write, and return the networks that its engine has joined."""
    serves(container)
    started = ask(container, "/models/gpt-2/start", idle_timeout=60)
    assert started.get("container_name") == f"{NAME}-tgi-gpt-2", started
    answer = ask(container, "/v1/completions", model="gpt-2", prompt="Once", max_tokens=4)
    assert answer["usage"]["completion_tokens"] == 4, answer
    engine = daemon.client.containers.get(f"{NAME}-tgi-gpt-2")
    ports = engine.attrs["NetworkSettings"]["Ports"]["80/tcp"]
    assert [(each["HostIp"], int(each["HostPort"])) for each in ports] == [
        ("127.0.0.1", started["port"])
    ]
    return list(engine.attrs["NetworkSettings"]["Networks"])


@pytest.mark.parametrize("network", ["bridge", "host"])
def test_in_a_network_of_the_daemon(daemon: Daemon, network: str) -> None:
    with inside(daemon, network_mode=network) as service:
        assert writes(daemon, service) == ["bridge"]


CATALOG = """\
[[models]]
id = "mine"
[models.llamacpp]
memory = "256MiB"
weights = { path = "/models/story-mini.gguf" }
"""


def test_a_file_of_a_folder_that_is_mounted_from_outside(daemon: Daemon, tmp_path: Path) -> None:
    """A file that is in the image of the service alone cannot be given to an engine."""
    file = images.REPOSITORY / "inference_service" / "story_mini" / "story-mini.gguf"
    shutil.copy(file, tmp_path)
    (tmp_path / "catalog.toml").write_text(CATALOG)
    llamacpp = images.llamacpp(daemon.client)
    arguments = ["--catalog", "/models/catalog.toml", "--llamacpp-image", llamacpp]
    mount = Mount("/models", str(tmp_path), type="bind")
    with inside(daemon, *arguments, mounts=[mount]) as service:
        serves(service)
        answer = ask(service, "/v1/completions", model="mine", prompt="Once", max_tokens=4)
        assert answer["usage"]["completion_tokens"] == 4, answer
        refused = ask(service, "/models/story-mini/start", idle_timeout=1)
        assert "which the daemon cannot give to an engine" in refused["detail"]


@pytest.fixture
def lan(daemon: Daemon) -> Iterator[str]:
    made = daemon.client.networks.create("lan")
    yield str(made.name)
    made.remove()


def test_in_a_network_of_one_s_own(daemon: Daemon, lan: str) -> None:
    with inside(daemon, network=lan) as service:
        assert writes(daemon, service) == [lan]


def test_in_the_network_of_the_host_with_engines_in_another(daemon: Daemon, lan: str) -> None:
    with inside(daemon, "--docker-network", lan, network_mode="host") as service:
        assert writes(daemon, service) == [lan]


def test_in_the_network_of_another_container(daemon: Daemon, lan: str) -> None:
    sleeps = ["python", "-c", "import time; time.sleep(300)"]
    image = images.python_base(daemon.client)
    other = daemon.client.containers.run(image, sleeps, detach=True, init=True, network=lan)
    try:
        with inside(daemon, network_mode=f"container:{other.id}") as service:
            assert writes(daemon, service) == [lan]
    finally:
        other.remove(force=True)


def test_with_a_name_of_its_own(daemon: Daemon) -> None:
    """The name of a host is no sure sign of the container."""
    with inside(daemon, hostname="kitchen") as service:
        assert writes(daemon, service) == ["bridge"]


@pytest.mark.parametrize(
    ("network", "arguments", "why"),
    [
        ("none", [], "which is in no network that engines can join"),
        ("bridge", ["--docker-network", "lan"], "`docker network connect lan inside-"),
        ("bridge", ["--docker-network", "nope"], "there is no network nope of the setting"),
    ],
)
def test_without_a_network_of_engines(
    daemon: Daemon, lan: str, network: str, arguments: list[str], why: str
) -> None:
    with inside(daemon, *arguments, network_mode=network) as service:
        assert service.wait(timeout=30)["StatusCode"] == 1
        assert why in service.logs().decode()


def test_behind_a_proxy_of_the_socket(daemon: Daemon, lan: str) -> None:
    """The daemon answers at the address of another container, and is found to be the same."""
    socket = daemon.url.removeprefix("unix://")
    image = images.python_base(daemon.client)
    volumes = {socket: {"bind": "/docker.sock", "mode": "rw"}}
    proxy = daemon.client.containers.run(
        image, ["python", "-c", PROXY], detach=True, init=True, network=lan, volumes=volumes
    )
    proxy.reload()
    address = proxy.attrs["NetworkSettings"]["Networks"][lan]["IPAddress"]
    try:
        host = {"DOCKER_HOST": f"tcp://{address}:2375"}
        with inside(daemon, network=lan, environment=host) as service:
            assert writes(daemon, service) == [lan]
    finally:
        proxy.remove(force=True)


PROXY = """\
import asyncio

async def copy(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
    writer.write_eof()

async def relay(reader, writer):
    far_reader, far_writer = await asyncio.open_unix_connection("/docker.sock")
    await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))
    writer.close()

async def main():
    async with await asyncio.start_server(relay, "0.0.0.0", 2375) as server:
        await server.serve_forever()

asyncio.run(main())
"""
