"""Beds: a runtime each, with engines for tests."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
from docker import DockerClient

from inference_service.runtimes.ports import Ports
from tests.runtimes.beds import Bed, DockerBed, FakeBed, ProcessBed, engine_image

REAL = ["process", pytest.param("docker", marks=pytest.mark.docker)]


@pytest.fixture(scope="session")
def image(docker_client: DockerClient) -> str:
    """Build `engine_program` as an image."""
    return engine_image(docker_client)


def _bed(request: pytest.FixtureRequest, ports: Ports) -> Bed:
    match request.param:
        case "docker":
            return DockerBed(request.getfixturevalue("image"), ports)
        case "process":
            return ProcessBed(ports)
        case _:
            return FakeBed()


@pytest.fixture(params=["fake", *REAL])
async def bed(request: pytest.FixtureRequest, ports: Ports) -> AsyncGenerator[Bed]:
    """A bed for every runtime."""
    bed = _bed(request, ports)
    yield bed
    await bed.close()


@pytest.fixture(params=REAL)
async def real(request: pytest.FixtureRequest, ports: Ports) -> AsyncGenerator[Bed]:
    """A bed for every runtime with real engines."""
    bed = _bed(request, ports)
    yield bed
    await bed.close()
