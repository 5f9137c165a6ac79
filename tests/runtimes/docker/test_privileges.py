"""What a container may do: the least, and what its entry adds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker import DockerClient

from inference_service.catalog import ContainerOptions
from inference_service.runtimes.command import Needs
from tests.docker import images
from tests.docker.daemon import Daemon
from tests.docker.needs import require_private_daemon
from tests.runtimes.beds import MIB, DockerBed, ask
from tests.runtimes.docker.beds import Open, copy_image

pytestmark = pytest.mark.docker

NOBODY = 1000  # a user of the machine
DAC_OVERRIDE, SYS_NICE = 1 << 1, 1 << 23
VOLUME = f"tests-{os.getpid()}"


def options(**given: Any) -> Needs:
    return Needs(64 * MIB, container=ContainerOptions.model_validate(given))


def own_volume(client: DockerClient, uid: int) -> None:
    """Make the volume of the beds, which belongs to a user."""
    client.containers.run(
        images.python_base(client),
        ["python", "-c", f"import os; os.chown('/data', {uid}, {uid}); os.chmod('/data', 0o755)"],
        volumes={VOLUME: {"bind": "/data", "mode": "rw"}},
        remove=True,
    )


async def test_a_container_has_no_capabilities(bed: DockerBed) -> None:
    async with bed.running() as running:
        status = {name: await ask(running, f"/status/{name}") for name in ("CapEff", "NoNewPrivs")}
        host = bed.inspect(running)["HostConfig"]

    assert status == {"CapEff": "0" * 16, "NoNewPrivs": "1"}
    assert (host["CapDrop"], host["CapAdd"]) == (["ALL"], None)
    assert host["PidsLimit"] == 8192


async def test_an_entry_adds_what_its_engine_needs(bed: DockerBed) -> None:
    needs = options(cap_add=["SYS_NICE", "DAC_OVERRIDE"], pids_limit=100)
    async with bed.running(needs=needs) as running:
        assert int(await ask(running, "/status/CapEff"), 16) == DAC_OVERRIDE | SYS_NICE
        assert bed.inspect(running)["HostConfig"]["PidsLimit"] == 100


async def test_root_writes_into_a_volume_of_its_own(bed: DockerBed) -> None:
    async with bed.running() as running:
        assert await ask(running, "/keep/model") == "kept"


async def test_a_volume_of_another_user_needs_a_capability(bed: DockerBed) -> None:
    own_volume(bed.client, NOBODY)
    async with bed.running() as running:
        assert "Permission denied: '/data/model'" in await ask(running, "/keep/model")
    async with bed.running(needs=options(cap_add=["DAC_OVERRIDE"])) as running:
        assert await ask(running, "/keep/model") == "kept"


async def test_an_engine_that_writes_no_weights_cannot(bed: DockerBed) -> None:
    async with bed.running(writes_weights=False) as running:
        assert "Read-only file system" in await ask(running, "/keep/model")


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
async def test_a_file_that_its_owner_keeps_to_himself_is_read(
    bed: DockerBed, tmp_path: Path, mode: int
) -> None:
    file = tmp_path / "weights"
    file.write_text("mine")
    os.chown(file, NOBODY, NOBODY)
    file.chmod(mode)
    async with bed.running(files={"FILE": file}) as running:
        assert await ask(running, "/file/FILE") == "mine"
        given = int(await ask(running, "/status/CapEff"), 16)

    assert given == (0 if mode == 0o644 else DAC_OVERRIDE)


@pytest.mark.parametrize(("folder", "inside"), [(0o700, 0o644), (0o755, 0o600)])
async def test_a_folder_that_its_owner_keeps_to_himself_is_read(
    bed: DockerBed, tmp_path: Path, folder: int, inside: int
) -> None:
    file = tmp_path / "model" / "weights"
    file.parent.mkdir()
    file.write_text("mine")
    for path, mode in ((file, inside), (file.parent, folder)):
        os.chown(path, NOBODY, NOBODY)
        path.chmod(mode)
    async with bed.running(files={"FOLDER": file.parent}, env={"F": "/model/model/weights"}) as one:
        assert await ask(one, "/file/F") == "mine"


@pytest.fixture(scope="module")
def remapped(docker_client: DockerClient, image: str) -> Iterator[Daemon]:
    """A daemon whose root in containers is another user."""
    require_private_daemon()
    with Daemon(flags=["--userns-remap", "default"]) as daemon:
        copy_image(docker_client, image, daemon)
        yield daemon


async def test_with_user_namespaces(open_bed: Open, remapped: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_text("mine")
    tmp_path.chmod(0o755)
    bed = open_bed(url=remapped.url)
    async with bed.running(files={"FILE": file}) as running:
        assert await ask(running, "/keep/model") == "kept"
        assert await ask(running, "/file/FILE") == "mine"
        assert await ask(running, "/status/CapEff") == "0" * 16

    file.chmod(0o600)  # root's, who is another one than that of the container
    needs = options(cap_add=["DAC_OVERRIDE"])
    async with bed.running(files={"FILE": file}, needs=needs) as running:
        assert await ask(running, "/file/FILE") == "", "it ends where it reads no file"
        assert (await running.wait()).code == 1
        assert "Permission denied" in "".join(running.tail(20))
