"""Steps that tests of the Docker runtime share: images to copy, push, pull and remove."""

from __future__ import annotations

import os
import random
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import PurePosixPath

from docker import DockerClient
from docker.errors import ImageNotFound

from inference_service.lifecycle import Progress
from tests.docker import building
from tests.docker.daemon import Daemon
from tests.docker.registry import Registry
from tests.docker.rootfs import Archive
from tests.runtimes.beds import DockerBed

Open = Callable[..., DockerBed]
Connect = Callable[..., Awaitable[DockerBed]]


def copy_image(client: DockerClient, image: str, daemon: Daemon) -> None:
    """Copy an image of the machine's daemon to another one."""
    daemon.client.images.load(b"".join(client.images.get(image).save(named=image)))


async def pull(bed: DockerBed, image: str) -> list[Progress]:
    """Pull an image and return the progress that a watcher sees."""
    seen: list[Progress] = []
    async with aclosing(
        bed.runtime.pull(bed.launch(image=image).command(bed.runtime.seat))
    ) as pull:
        async for progress in pull:
            seen.append(progress.after(seen[-1] if seen else None))
    return seen


def push(client: DockerClient, registry: Registry, name: str, layers: int = 3) -> str:
    """Push an image of some MB, remove it from the daemon, and return its reference."""
    names = [f"layer-{number}" for number in range(layers)]
    dockerfile = "\n".join(["FROM scratch", *(f"COPY {name} /" for name in names)])
    seed = os.urandom(8)

    def fill(archive: Archive) -> None:
        for file in names:
            content = random.Random(seed + file.encode()).randbytes(3_000_000)
            archive.write(PurePosixPath(file), content)

    image = building.image(client, "layers", dockerfile, [seed], fill)
    reference = registry.push(client, image, name)
    client.images.remove(image)
    return reference


def forget(client: DockerClient, image: str) -> None:
    if has(client, image):
        client.images.remove(image)


def has(client: DockerClient, image: str) -> bool:
    try:
        client.images.get(image)
    except ImageNotFound:
        return False
    return True
