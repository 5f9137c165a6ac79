"""Beds on the daemon of the machine or a private one, and an image."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from typing import Any

import pytest
from docker import DockerClient

from inference_service.runtimes.ports import Ports
from tests.docker.daemon import Daemon
from tests.docker.needs import require_private_daemon
from tests.docker.registry import Registry
from tests.runtimes.beds import DockerBed
from tests.runtimes.docker.beds import Open, copy_image, forget, push


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
