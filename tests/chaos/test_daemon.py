"""Faults of the Docker daemon: restarts, a pull that is cut, a full disk."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from docker import DockerClient

from inference_service.v1 import model_service_pb2 as pb
from tests.chaos.callers import LOST, STREAMS, TEXT
from tests.chaos.conftest import Faulty
from tests.chaos.test_engine import signalled, until_state
from tests.chaos.test_service import adopted, apart
from tests.chaos.trial import ENDLESS
from tests.docker import images
from tests.docker.daemon import Daemon
from tests.docker.needs import require_private_daemon
from tests.docker.registry import Registry
from tests.runtimes.tap import Tap
from tests.service import serving
from tests.waiting import SLOWLY, within

pytestmark = [pytest.mark.docker, pytest.mark.chaos]

Settings = Callable[..., dict[str, Any]]

_DISK = 3_000_000_000  # bytes; a disk in memory, which takes only as much as it holds

ABSENT = {"ENGINE_FAILED", "START_FAILED", "START_BACKING_OFF", "RUNTIME_UNAVAILABLE"}


@pytest.fixture(scope="module")
def mortal() -> Iterator[Daemon]:
    """Run a daemon whose containers end with it; one for all tests, since a start takes seconds."""
    require_private_daemon()
    with Daemon(disk_bytes=_DISK) as daemon:
        images.tgi_double(daemon.client)
        yield daemon


@pytest.mark.parametrize("way", ["stop", "kill"])
async def test_restarted(
    faulty: Faulty, tgi: Settings, mortal: Daemon, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """A daemon that is killed leaves engines, which the next daemon ends."""
    monkeypatch.setenv("DOCKER_HOST", mortal.url)
    settings = tgi(DOUBLE_TOKENS_PER_SECOND=50, GRACEFUL_TERMINATION_TIMEOUT=1)
    async with (
        faulty(f"dockerd: {way}, start amid 20 streams", ABSENT) as trial,
        trial.serving(**settings) as service,
    ):
        crowd = trial.call(service, 20, ENDLESS, STREAMS)
        await crowd.reading()
        trial.strike()
        await asyncio.to_thread(getattr(mortal, way))
        await trial.call(service, 20).answered()
        await asyncio.to_thread(mortal.start)
        await crowd.answered()
        await trial.heal(service)


async def test_restarted_with_live_restore(
    faulty: Faulty, tgi: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine lives on, and is asked at its own address: no caller sees that dockerd is away."""
    require_private_daemon()
    with Daemon(live_restore=True, disk_bytes=_DISK) as daemon:
        images.tgi_double(daemon.client)
        monkeypatch.setenv("DOCKER_HOST", daemon.url)
        async with (
            faulty("dockerd: stop, start, live-restore, amid 20 streams") as trial,
            trial.serving(**tgi(DOUBLE_TOKENS_PER_SECOND=50)) as service,
        ):
            crowd = trial.call(service, 20, ENDLESS, STREAMS)
            await crowd.reading()
            before = trial.container().attrs["State"]
            trial.strike()
            await asyncio.to_thread(daemon.stop)
            await trial.call(service, 20).answered()
            await asyncio.to_thread(daemon.start)
            await crowd.answered()
            await trial.heal(service)
            assert trial.container().attrs["State"]["Pid"] == before["Pid"]


@pytest.mark.parametrize("way", ["stop", "kill"])
async def test_restarted_with_a_pinned_model(
    faulty: Faulty, tgi: Settings, mortal: Daemon, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """The model serves again without a caller."""
    monkeypatch.setenv("DOCKER_HOST", mortal.url)
    async with (
        faulty(f"dockerd: {way}, 5 s away, start, a pinned model that nobody calls") as trial,
        trial.serving(**tgi(pinned=True)) as service,
    ):
        await trial.call(service, 1).answered()
        before = trial.container().id
        trial.strike()
        await asyncio.to_thread(getattr(mortal, way))
        await asyncio.sleep(5)
        await asyncio.to_thread(mortal.start)
        await until_state(service, trial.model_id, lambda m: m.state != pb.MODEL_STATE_READY)
        await until_state(service, trial.model_id, lambda m: m.state == pb.MODEL_STATE_READY)
        assert trial.container().id != before
        await trial.heal(service)


@pytest.mark.parametrize("way", ["stop", "kill"])
async def test_restarted_amid_streams_that_resume(
    faulty: Faulty, tgi: Settings, mortal: Daemon, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setenv("DOCKER_HOST", mortal.url)
    settings = tgi(DOUBLE_TOKENS_PER_SECOND=50, GRACEFUL_TERMINATION_TIMEOUT=1)
    async with (
        faulty(f"dockerd: {way}, 12 s away, start amid 20 streams that resume") as trial,
        trial.serving(**settings) as service,
    ):
        body = ENDLESS | {"max_new_tokens": 300, "resume": True}
        crowd = trial.call(service, 20, body, STREAMS)
        await crowd.reading()
        trial.strike()
        await asyncio.to_thread(getattr(mortal, way))
        await asyncio.sleep(12)
        await asyncio.to_thread(mortal.start)
        await crowd.answered()
        await trial.heal(service)
        assert [caller.answers for caller in crowd.callers] == [[TEXT]] * 20


async def test_hangs_at_the_end_of_the_service(
    faulty: Faulty, tgi: Settings, mortal: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service ends as after every SIGTERM, and the next one adopts its engine."""
    monkeypatch.setenv("DOCKER_HOST", mortal.url)
    async with faulty("dockerd hangs, SIGTERM of the service", {"SHUTTING_DOWN"}) as trial:
        settings = trial.settings | tgi(DOUBLE_TOKENS_PER_SECOND=50) | {"drain_timeout": 2}
        async with apart(trial, settings) as (service, call):
            crowd = call(10, ENDLESS, STREAMS)
            await crowd.reading()
            before = trial.container()
            trial.strike()
            mortal.hang()
            try:
                service.process.send_signal(signal.SIGTERM)
                async with within(2 + 10, "the service did not end"):
                    await service.process.wait()
            finally:
                mortal.wake()
            await crowd.answered()
            assert service.process.returncode == 0
        await adopted(trial, settings, before)


async def test_an_adopted_engine_hangs(faulty: Faulty, tgi: Settings) -> None:
    async with faulty("kill -9 of the service, whose engine hangs then", {LOST}) as trial:
        settings = trial.settings | tgi() | {"hang_timeout": 3}
        async with apart(trial, settings) as (service, call):
            await call(1).answered()
            before = trial.container()
            trial.strike()
            await service.kill()
        signalled(before, signal.SIGSTOP)
        async with serving(**settings) as service:
            await trial.call(service, 20).answered()
            await trial.heal(service)
            assert trial.container().id != before.id
            await trial.judge()


async def test_a_pull_is_cut(
    faulty: Faulty,
    tgi: Settings,
    mortal: Daemon,
    docker_client: DockerClient,
    tgi_image: str,
    registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DOCKER_HOST", mortal.url)
    pushed = registry.push(docker_client, tgi_image, "tgi:1")
    async with Tap(registry.address, 15_000_000) as tap:
        image = pushed.replace(registry.address, tap.address)
        mortal.client.images.pull(pushed).tag(image)
        async with (
            faulty("a pull that is cut at half") as trial,
            trial.serving(**tgi() | {"tgi_image": image}) as service,
        ):
            forget_images(trial.client)
            crowd = trial.call(service, 20)
            async with within(SLOWLY, "the pull did not come to the point at which it is cut"):
                await tap.held.wait()
            trial.strike()
            tap.drop()
            await crowd.answered()
            await trial.heal(service)


async def test_a_full_disk(
    faulty: Faulty,
    tgi: Settings,
    mortal: Daemon,
    docker_client: DockerClient,
    tgi_image: str,
    registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DOCKER_HOST", mortal.url)
    image = registry.push(docker_client, tgi_image, "tgi:1")
    async with (
        faulty("a pull onto a full disk", {"START_FAILED", "START_BACKING_OFF"}) as trial,
        trial.serving(**tgi() | {"tgi_image": image}) as service,
    ):
        forget_images(trial.client)
        resize(mortal, 20_000_000)
        trial.strike()
        crowd = trial.call(service, 20)
        await crowd.answered()
        error = (await trial.model(service)).last_error.message
        resize(mortal, _DISK)
        await trial.heal(service)
        assert "no space left on device" in error
        assert ["START_FAILED"] in [caller.answers for caller in crowd.callers]
        assert not any(caller.answers == [TEXT] for caller in crowd.callers)


def forget_images(client: DockerClient) -> None:
    """Remove all images, so that the daemon pulls them again."""
    for image in client.images.list():
        client.images.remove(str(image.id), force=True)


def resize(daemon: Daemon, size: int) -> None:
    """Set the size of the daemon's disk."""
    disk = daemon.folder / "data"
    subprocess.run(["mount", "-o", f"remount,size={size}", "tmpfs", disk], check=True)
