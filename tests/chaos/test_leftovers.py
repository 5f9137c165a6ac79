"""The search for leftovers finds each kind."""

from __future__ import annotations

import asyncio
import socket
import threading

import docker
import pytest
from docker import DockerClient

from tests.chaos.leftovers import held
from tests.chaos.report import Row
from tests.chaos.trial import Trial, new_client
from tests.service import free_ports

pytestmark = [pytest.mark.docker, pytest.mark.chaos]

SERVICE = "inference-service-leftovers"


async def test_each_kind_is_seen_and_goes(docker_client: DockerClient, tgi_image: str) -> None:
    port = int(free_ports(1).partition("-")[0])
    ports = range(port, port + 1)
    over = threading.Event()
    before = held(SERVICE, ports, docker.from_env)

    labels = {"inference-service.service": SERVICE}
    container = docker_client.containers.create(tgi_image, name=SERVICE, labels=labels)
    thread = threading.Thread(target=over.wait, name="stray")
    thread.start()
    task = asyncio.create_task(asyncio.Event().wait())
    process = await asyncio.create_subprocess_exec("sleep", "60")
    try:
        with socket.create_server(("127.0.0.1", port)):
            found = held(SERVICE, ports, docker.from_env) - before
    finally:
        process.kill()
        await process.wait()
        over.set()
        thread.join()
        task.cancel()
        container.remove()

    assert {
        f"container {SERVICE}",
        f"port {port}",
        "process sleep",
        "thread stray",
        "task <coroutine object Event.wait",
        "file of tcp",
    } <= set(found)
    await asyncio.wait([task])
    left = held(SERVICE, ports, docker.from_env) - before
    assert set(left) <= {"file of unix"}  # of `docker_client`


async def test_a_volume_in_use_is_seen(docker_client: DockerClient, tgi_image: str) -> None:
    async with new_client() as http:
        trial = Trial(Row(""), docker.from_env, docker_client, SERVICE, "", free_ports(1), (), http)
        volumes = {SERVICE: {"bind": "/data", "mode": "rw"}}
        container = docker_client.containers.create(tgi_image, volumes=volumes)
        trial.forget_volume()
        assert "in use" in trial.row.left.pop()
        container.remove()
        trial.forget_volume()
        assert trial.row.left == []
        assert not docker_client.volumes.list(filters={"name": SERVICE})
