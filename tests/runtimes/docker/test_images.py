"""Pulls of images."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import pytest
from docker import DockerClient

from inference_service.errors import LaunchError, Unlaunchable
from inference_service.lifecycle import Phase, Progress
from inference_service.runtimes.docker.calls import Calls
from inference_service.runtimes.docker.images import Images
from inference_service.runtimes.docker.pulse import Pulse
from tests.docker.daemon import Daemon
from tests.docker.needs import require_podman, require_private_daemon
from tests.docker.podman import Podman
from tests.docker.registry import Registry
from tests.runtimes.beds import MIB
from tests.runtimes.docker.beds import Open, has, pull, push
from tests.runtimes.tap import Tap
from tests.waiting import SLOWLY, within

pytestmark = pytest.mark.docker


async def test_a_pull_counts_its_bytes_and_ends_at_one(open_bed: Open, pushed: str) -> None:
    bed = open_bed(pull_policy="missing")

    seen = await pull(bed, pushed)

    fractions = [progress.fraction for progress in seen if progress.fraction is not None]
    assert fractions == sorted(fractions)
    assert len(set(fractions)) > 5
    assert fractions[-1] == 1.0
    assert seen[-1].completed == seen[-1].total > 9_000_000
    assert has(bed.client, pushed)


async def test_a_pull_by_digest(open_bed: Open, pushed: str) -> None:
    bed = open_bed(pull_policy="missing")
    name = pushed.rpartition(":")[0]
    digest = bed.client.images.get_registry_data(pushed).id

    await pull(bed, f"{name}@{digest}")

    assert has(bed.client, f"{name}@{digest}")
    bed.client.images.remove(f"{name}@{digest}")


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The program that the files of the `docker` command name for credentials; not there yet."""
    config = tmp_path / "config"
    config.mkdir()
    (config / "config.json").write_text('{"credsStore": "lost"}')
    monkeypatch.setenv("DOCKER_CONFIG", str(config))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path / "docker-credential-lost"


@pytest.mark.filterwarnings("ignore:docker-credential-lost not installed")
async def test_a_program_for_credentials_that_is_missing_keeps_nobody_from_a_public_image(
    open_bed: Open, pushed: str, helper: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bed = open_bed(pull_policy="missing")

    await pull(bed, pushed)

    assert has(bed.client, pushed)
    assert "without credentials" in caplog.text
    assert "docker-credential-lost not installed" in caplog.text
    assert str(helper.parent / "config" / "config.json") in caplog.text


async def test_a_program_for_credentials_that_fails_is_named_when_the_image_is_refused(
    open_bed: Open, pushed: str, helper: Path
) -> None:
    helper.write_text("#!/bin/sh\necho the vault is locked >&2; echo the vault is locked; exit 1\n")
    helper.chmod(0o755)
    bed = open_bed(pull_policy="missing")

    with pytest.raises(LaunchError, match=r"manifest unknown.*docker-credential-lost.*locked"):
        await pull(bed, pushed.replace("model:1", "model:none"))


async def test_the_pull_policies(open_bed: Open, registry: Registry, pushed: str) -> None:
    never, missing, always = (open_bed(pull_policy=p) for p in ("never", "missing", "always"))
    steps = never.runtime.pull(never.launch(image=pushed).command(never.runtime.seat))
    assert (await anext(steps)).phase is Phase.PULLING_IMAGE
    with pytest.raises(LaunchError, match=r"there is no image .* never"):
        await anext(steps)
    await pull(missing, pushed)
    first = missing.client.images.get(pushed).id
    await pull(never, pushed)

    missing.client.images.remove(pushed)
    push(missing.client, registry, "model:1")
    await pull(missing, pushed)
    second = str(missing.client.images.get(pushed).id)
    push(missing.client, registry, "model:1")
    missing.client.api.tag(second, pushed.rpartition(":")[0], "1")
    assert await pull(missing, pushed) == []
    await pull(always, pushed)
    third = missing.client.images.get(pushed).id

    assert len({first, second, third}) == 3
    assert {progress.fraction for progress in await pull(always, pushed)} == {None}
    missing.client.images.remove(second)


async def test_a_pull_of_a_missing_image(open_bed: Open, registry: Registry) -> None:
    bed = open_bed(pull_policy="missing")
    with pytest.raises(LaunchError, match="manifest unknown"):
        await pull(bed, f"{registry.address}/nothing:1")

    for name in ("no/Such Name", "no/SUCH", "name@sha256:123", "http://name:1"):
        with pytest.raises(Unlaunchable, match="invalid reference format"):
            await pull(bed, name)

    registry.stop()
    with pytest.raises(LaunchError, match="connection refused"):
        await pull(bed, f"{registry.address}/nothing:1")


async def test_a_pull_by_podman_moves_and_counts_its_bytes(pushed: str) -> None:
    """Podman announces the configuration as a layer too, and says nothing while it extracts."""
    require_podman()
    address, _, name = pushed.partition("/")
    async with Tap(address, 4_000_000) as tap:
        with Podman(tap.address) as podman:
            client, calls = podman.client, Calls(Pulse.of(podman.client))
            seen: list[Progress] = []

            async def read() -> None:
                pull = Images(client, calls, "missing").pull(f"{tap.address}/{name}")
                async with aclosing(pull) as steps:
                    async for progress in steps:
                        seen.append(progress.after(seen[-1] if seen else None))

            reading = asyncio.create_task(read())
            async with within(SLOWLY, "the pull did not come through the tap"):
                await tap.held.wait()
            tap.open()
            async with within(SLOWLY, "the pull did not end"):
                await reading
            await calls.close()
            assert has(client, f"{tap.address}/{name}")
            fractions = [progress.fraction for progress in seen if progress.fraction is not None]
            assert fractions == sorted(fractions)
            assert fractions[-1] == pytest.approx(0.7)

            with pytest.raises(LaunchError, match="manifest unknown"):
                await anext(_failing(client, f"{tap.address}/nothing:1"))


async def _failing(client: DockerClient, image: str) -> AsyncGenerator[Progress]:
    async with aclosing(Images(client, Calls(Pulse.of(client)), "missing").pull(image)) as steps:
        async for progress in steps:
            if progress.message:
                yield progress


async def test_a_pull_goes_on_after_its_connections_broke(open_bed: Open, pushed: str) -> None:
    bed = open_bed(pull_policy="missing")
    address, _, name = pushed.partition("/")
    async with Tap(address, 4_000_000) as tap:
        pulling = asyncio.create_task(pull(bed, f"{tap.address}/{name}"))
        async with within(SLOWLY, "the pull did not come through the tap"):
            await tap.held.wait()
        tap.drop()
        async with within(SLOWLY, "the pull did not end after its connections broke"):
            seen = await pulling
        bed.client.images.remove(f"{tap.address}/{name}")

    assert any("Retrying" in progress.message for progress in seen)
    assert seen[-1].fraction == 1.0


async def test_a_pull_that_is_cancelled_ends(open_bed: Open, pushed: str) -> None:
    bed = open_bed(pull_policy="missing")
    address, _, name = pushed.partition("/")
    async with Tap(address, 4_000_000) as tap:
        pulling = asyncio.create_task(pull(bed, f"{tap.address}/{name}"))
        async with within(SLOWLY, "the pull did not come through the tap"):
            await tap.held.wait()
        pulling.cancel()
        with pytest.raises(asyncio.CancelledError):
            async with within(SLOWLY, "the pull that was cancelled did not end"):
                await pulling
        tap.open()
        await bed.close()  # waits for the thread

        assert not has(bed.client, f"{tap.address}/{name}")


async def test_a_full_disk_is_reported(
    docker_client: DockerClient, open_bed: Open, pushed: str
) -> None:
    require_private_daemon()
    with Daemon(disk_bytes=8 * MIB) as daemon:
        bed = open_bed(url=daemon.url, pull_policy="missing")
        with pytest.raises(LaunchError, match="no space left on device"):
            await pull(bed, pushed)
        await bed.close()


@pytest.mark.parametrize("policy", ["missing", "always"])
async def test_an_image_that_is_built_here_is_never_pulled(
    open_bed: Open, image: str, policy: str
) -> None:
    bed = open_bed(pull_policy=policy)
    name = "localhost/inference-service/llamacpp:test"
    with pytest.raises(Unlaunchable, match=r"never pulled; `make image` builds it"):
        await pull(bed, name)

    bed.client.images.get(image).tag(name)
    try:
        assert await pull(bed, name) == []
    finally:
        bed.client.images.remove(name)


@pytest.mark.parametrize("policy", ["missing", "always", "never"])
@pytest.mark.parametrize("name", ["BAD/image", "A::b", "a b", "-", "a@sha256:0"])
async def test_a_name_that_is_none_fails_in_the_phase_of_the_image(
    open_bed: Open, policy: str, name: str
) -> None:
    bed = open_bed(pull_policy=policy)
    pulling = bed.runtime.pull(bed.launch(image=name).command(bed.runtime.seat))

    assert (await anext(pulling)).phase is Phase.PULLING_IMAGE
    with pytest.raises(Unlaunchable, match="image"):
        await anext(pulling)
