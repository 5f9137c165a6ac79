"""Fixtures of all folders: ports, the Docker daemon with images on it, a registry."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import closing

import docker
import pytest
from docker import DockerClient

from inference_service.runtimes.ports import Ports
from tests.docker import images
from tests.docker.needs import require_daemon, require_registry
from tests.docker.registry import Registry
from tests.service import Serving, free_ports, serving


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Write one line for each reason to skip, with the number of its tests."""
    reasons = Counter(
        report.longrepr[2].removeprefix("Skipped: ")
        for report in terminalreporter.stats.get("skipped", [])
    )
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"skipped {count}: {reason}")


@pytest.fixture(autouse=True)
def state_dir(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the start times of tests apart from those of this user's services."""
    monkeypatch.setenv("INFERENCE_STATE_DIR", str(tmp_path_factory.mktemp("state")))


@pytest.fixture
def ports() -> Ports:
    """Return 100 ports below those that Linux hands out, others than a second run of the tests."""
    first = 20_000 + os.getpid() % 100 * 100
    return Ports(first, first + 99)


@pytest.fixture(autouse=True, scope="session")
def _no_hub() -> Iterator[None]:
    """Keep the tests from the hub of Hugging Face; a test that needs a hub has its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        yield


@pytest.fixture(scope="session")
def docker_client() -> Iterator[DockerClient]:
    """Return the daemon of this machine. Without one the test is skipped, or fails: see `needs`."""
    require_daemon()
    with closing(docker.from_env()) as client:
        yield client


@pytest.fixture(scope="session")
def tgi_image(docker_client: DockerClient) -> str:
    """Return the image of TGI's double."""
    return images.tgi_double(docker_client)


@pytest.fixture
def registry() -> Iterator[Registry]:
    """Run an empty registry on the loopback, which a test may stop and start."""
    require_registry()
    with Registry() as registry:
        yield registry


@pytest.fixture
async def service() -> AsyncGenerator[Serving]:
    """Run a service on the embedded runtime, for one test."""
    async with serving(ports=free_ports(8)) as running:
        yield running
