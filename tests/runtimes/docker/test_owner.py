"""The owner of a claim: what a record keeps of it, and whether it has surely ended."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

import pytest
from docker import DockerClient
from docker.models.containers import Container

from inference_service.runtimes import identity
from inference_service.runtimes.docker.owner import Owner

pytestmark = pytest.mark.docker

OURS = Owner("ours", namespace="here", socket="ours")


@pytest.fixture
def container(docker_client: DockerClient, image: str) -> Iterator[Container]:
    """A container that runs, as one in which a service is."""
    command = ["sh", "-c", "read line"]
    running = docker_client.containers.run(image, entrypoint=command, stdin_open=True, detach=True)
    yield running
    running.remove(force=True)


def owner_in(container: Container) -> Owner:
    container.reload()
    started = container.attrs["State"]["StartedAt"]
    return Owner("another", "a host", "today", "there", "", str(container.id), started)


def test_the_labels_keep_the_owner(docker_client: DockerClient) -> None:
    owner = Owner.this(docker_client, "a socket")
    assert Owner.read(owner.labels()) == owner
    assert Owner.read({"somebody": "else's"}) is None
    assert owner.id != Owner.this(docker_client, "a socket").id
    assert (owner.host, owner.namespace) == (os.uname().nodename, identity.namespace())


def test_a_service_in_a_container_has_ended_when_that_has_or_has_begun_anew(
    docker_client: DockerClient, container: Container
) -> None:
    owner = owner_in(container)
    assert owner.alive(OURS, docker_client) is None
    assert f"on a host in the container {container.short_id}, since today" == str(owner)

    container.kill()
    container.wait()
    assert owner.alive(OURS, docker_client) is False
    container.start()
    assert owner.alive(OURS, docker_client) is False
    assert owner_in(container).alive(OURS, docker_client) is None


def test_a_service_in_a_container_that_is_gone_has_ended(
    docker_client: DockerClient, container: Container
) -> None:
    owner = replace(owner_in(container), container="f" * 64)
    assert owner.alive(OURS, docker_client) is False


def test_a_service_in_the_same_namespace_runs_as_long_as_it_holds_its_socket(
    docker_client: DockerClient,
) -> None:
    with identity.alone(f"tests-{os.getpid()}", "daemon") as held:
        assert Owner("a", namespace="here", socket=held).alive(OURS, docker_client) is True
        assert Owner("a", namespace="there", socket=held).alive(OURS, docker_client) is None
    assert Owner("a", namespace="here", socket=held).alive(OURS, docker_client) is False
    assert Owner("a", namespace="here", socket="ours").alive(OURS, docker_client) is False
    assert (
        Owner("a", namespace="", socket="").alive(replace(OURS, namespace=""), docker_client)
        is None
    )
