"""Beds on the daemon of the machine or a private one, and an image."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from typing import Any

import pytest
from docker import DockerClient

from inference_service.runtimes.docker import connection
from inference_service.runtimes.ports import Ports
from tests.docker.daemon import Daemon
from tests.docker.needs import require_private_daemon
from tests.docker.registry import Registry
from tests.runtimes.beds import DockerBed
from tests.runtimes.docker.beds import Connect, Open, copy_image, forget, push


@pytest.fixture
async def open_bed(image: str, ports: Ports) -> AsyncGenerator[Open]:
    """A function that opens beds, by default on the daemon of the machine."""
    beds: list[DockerBed] = []

    def open_bed(ports: Ports = ports, url: str | None = None, **changes: Any) -> DockerBed:
        beds.append(DockerBed(image, ports, url, **changes))
        return beds[-1]

    yield open_bed
    for bed in beds:
        await bed.close()


@pytest.fixture
def bed(open_bed: Open) -> DockerBed:
    return open_bed()


@pytest.fixture(scope="package")
def private(docker_client: DockerClient, image: str) -> Iterator[Daemon]:
    """A daemon with the image, to stop and to kill; its containers run on."""
    require_private_daemon()
    with Daemon(live_restore=True, nvidia=True) as daemon:
        copy_image(docker_client, image, daemon)
        yield daemon


@pytest.fixture
def daemon(private: Daemon) -> Iterator[Daemon]:
    """The private daemon, which runs at the start and at the end of the test."""
    private.start()
    yield private
    private.start()


@pytest.fixture
def free(ports: Ports) -> int:
    """The first of some free ports."""
    with ports.claim() as port:
        return port


@pytest.fixture
def pushed(docker_client: DockerClient, registry: Registry) -> Iterator[str]:
    reference = push(docker_client, registry, "model:1")
    yield reference
    forget(docker_client, reference)


@pytest.fixture(scope="package")
def apart(docker_client: DockerClient, image: str) -> Iterator[Daemon]:
    """A daemon with a network of its own, whose containers have addresses that exist here too."""
    require_private_daemon()
    with Daemon(apart=True, tls=True) as daemon:
        copy_image(docker_client, image, daemon)
        yield daemon


@pytest.fixture
async def connect(
    image: str, ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[Connect]:
    """A function that opens a bed with the daemon at an address, as the service does.

    The bed itself looks at `url`, which leads to the same daemon.
    """
    beds: list[DockerBed] = []

    async def connect(address: str, url: str, network: str | None = None) -> DockerBed:
        monkeypatch.setenv("DOCKER_HOST", address)
        found = await connection.connect(network)
        beds.append(DockerBed(image, ports, url, found))
        return beds[-1]

    yield connect
    for bed in beds:
        await bed.close()
