"""The lookout for Docker: a daemon that is started later than the service."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from docker import DockerClient

from inference_service.errors import LaunchError, RuntimeUnavailable
from inference_service.lookout import Lookout
from inference_service.runtimes.base import Runtime
from inference_service.runtimes.docker import endpoint
from inference_service.runtimes.docker.claim import Claim
from inference_service.settings import Settings
from tests.docker.daemon import Daemon
from tests.docker.needs import require_private_daemon
from tests.waiting import SLOWLY, within

NAME = f"lookout-{os.getpid()}"


class Watcher:
    """A service that is shown the daemon, and first fails so many times."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.tries = 0
        self.found: asyncio.Future[Runtime] = asyncio.get_running_loop().create_future()

    async def __call__(self, docker: Runtime) -> None:
        self.tries += 1
        if self.tries <= self.failures:
            raise LaunchError("it went away at once")
        self.found.set_result(docker)


@asynccontextmanager
async def watching(
    folder: Path, watcher: Watcher, interval: float = 1000.0, **changes: Any
) -> AsyncGenerator[Lookout]:
    settings = Settings.model_validate({"state_dir": folder, "service_name": NAME} | changes)
    lookout = Lookout(settings, interval=interval)
    async with lookout, lookout.watching(watcher):
        yield lookout


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address at which no daemon answers."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none")


@pytest.fixture(scope="module")
def private() -> Iterator[Daemon]:
    require_private_daemon()
    with Daemon() as daemon:
        yield daemon


@pytest.fixture
def stopped(private: Daemon, monkeypatch: pytest.MonkeyPatch) -> Daemon:
    """A daemon that does not run yet, at the address of the environment."""
    private.stop()
    monkeypatch.setenv("DOCKER_HOST", private.url)
    return private


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    ours = [record for record in caplog.records if record.name == "inference_service.lookout"]
    return [record.getMessage() for record in ours if record.levelno >= logging.WARNING]


@pytest.mark.usefixtures("nowhere")
async def test_without_docker_the_log_says_once_why_and_what_that_means(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with watching(tmp_path, Watcher()) as lookout:
        await lookout.look()
        choice = lookout.runtimes.choice

    (warning,) = warnings(caplog)
    assert "models run as processes, and those that need an image do not start: " in warning
    assert f"at unix://{tmp_path}/none (No such file or directory)" in warning
    assert choice.name == "process"
    assert warning.endswith(choice.reason)
    assert "Docker is looked for again each 1000 s" in choice.reason


@pytest.mark.usefixtures("nowhere")
async def test_a_service_that_wants_processes_or_docker_does_not_look_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with watching(tmp_path, Watcher(), runtime="process") as lookout:
        await lookout.look()
        assert lookout.runtimes.choice.reason == "it was asked for"
    with pytest.raises(RuntimeUnavailable):
        async with watching(tmp_path, Watcher(), runtime="docker"):
            pass
    assert warnings(caplog) == []


@pytest.mark.docker
async def test_a_daemon_that_is_started_later_is_found_by_itself(
    tmp_path: Path, stopped: Daemon, caplog: pytest.LogCaptureFixture
) -> None:
    watcher = Watcher()
    async with watching(tmp_path, watcher, interval=0.2) as lookout:
        await asyncio.to_thread(stopped.start)
        async with within(SLOWLY, "the daemon was not found"):
            docker = await watcher.found
        await lookout.look()

        assert lookout.runtimes.by_name["docker"] is docker
        assert lookout.runtimes.choice.name == "docker"
        assert "a Docker daemon answers since 20" in lookout.runtimes.choice.reason
        _, found = warnings(caplog)
        assert found.startswith("Docker answers now, and gets models at their next start: ")
        assert found.endswith(lookout.runtimes.choice.reason)
        assert len(records(stopped.client)) == 1
    assert records(stopped.client) == []


def records(client: DockerClient) -> list[Any]:
    return [*client.api.containers(all=True, filters={"name": f"{NAME}-CLAIM"})]


@pytest.mark.docker
async def test_all_who_need_docker_share_a_look(tmp_path: Path, stopped: Daemon) -> None:
    watcher = Watcher()
    async with watching(tmp_path, watcher) as lookout:
        await asyncio.to_thread(stopped.start)
        async with within(SLOWLY, "the daemon was not found"):
            await asyncio.gather(*(lookout.look() for _ in range(100)))
        assert watcher.found.done()
    assert watcher.tries == 1


@pytest.mark.docker
async def test_a_daemon_that_cannot_be_used_yet_is_looked_for_again(
    tmp_path: Path, stopped: Daemon, caplog: pytest.LogCaptureFixture
) -> None:
    watcher = Watcher(failures=2)
    async with watching(tmp_path, watcher, interval=0.2):
        await asyncio.to_thread(stopped.start)
        async with within(SLOWLY, "the daemon was not found"):
            await watcher.found
    assert watcher.tries == 3
    _, failed, _ = warnings(caplog)
    assert "it went away at once" in failed


@pytest.mark.docker
async def test_a_name_that_is_taken_is_waited_for(
    tmp_path: Path, stopped: Daemon, caplog: pytest.LogCaptureFixture
) -> None:
    watcher = Watcher()
    async with watching(tmp_path, watcher) as lookout:
        await asyncio.to_thread(stopped.start)
        other = Claim(stopped.client, NAME, "another")
        await other.take()
        await lookout.look()
        assert lookout.runtimes.choice.name == "process"
        assert f"a service named {NAME} uses this Docker daemon" in warnings(caplog)[-1]

        await other.let_go()
        async with within(SLOWLY, "the name was not free"):
            while not watcher.found.done():
                await lookout.look()
                await asyncio.sleep(0.1)
        assert lookout.runtimes.choice.name == "docker"


@pytest.mark.usefixtures("nowhere")
async def test_a_look_that_was_slow_is_not_repeated_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []

    def look() -> None:
        looks.append("look")
        time.sleep(0.1)
        raise RuntimeUnavailable("nobody", "unix:///nowhere")

    async with watching(tmp_path, Watcher()) as lookout:
        monkeypatch.setattr(endpoint, "look", look)
        for _ in range(100):
            await lookout.look()
    assert looks == ["look"]
