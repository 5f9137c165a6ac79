"""Leftovers of a service: containers, ports, processes, threads, tasks and files."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path

from docker import DockerClient

from tests.service import free

Held = Counter[str]

# Threads of asyncio's pool: a few at most, and no loop of ours ends them.
_SHARED = "asyncio_"

# A service that runs keeps threads and sockets for its connection to Docker, both bounded.
_POOLED = ("thread docker", "file of unix")


def held(service: str, ports: range, connect: Callable[[], DockerClient]) -> Held:
    """Count the things that exist now, by name. `ports` are those of engines."""
    gc.collect()  # the Docker SDK leaves sockets to the collector
    label = f"inference-service.service={service}"
    with closing(connect()) as client:  # a new one: a client keeps up to 25 connections
        ours = client.containers.list(all=True, ignore_removed=True, filters={"label": label})
    found = Counter(f"container {container.name}" for container in ours)
    found.update(f"port {port}" for port in ports if not free(port))
    found.update(f"process {name}" for name in _children())
    names = (thread.name for thread in threading.enumerate())
    found.update(f"thread {name}" for name in names if not name.startswith(_SHARED))
    found.update(f"task {task.get_coro()!r}".split(" at 0x")[0] for task in asyncio.all_tasks())
    found.update(f"file of {kind}" for kind in _files())
    return found


async def left_behind(
    before: Held, look: Callable[[], Held], *, running: bool, pooled: Sequence[str] = ()
) -> list[str]:
    """Return the things that are new since `before` and do not end within a few seconds.

    With `running`, the service still runs, and keeps its connections to Docker; `pooled` are more
    things of which these are made.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + 5
    while True:
        left = sorted((look() - before).elements())
        if running:
            left = [thing for thing in left if not thing.startswith((*_POOLED, *pooled))]
        if not left or loop.time() > end:
            return left
        await asyncio.sleep(0.05)


def _children() -> Iterator[str]:
    """Yield the children of this process, zombies too."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # the process has ended meanwhile
            name, _, rest = path.read_text().partition("(")[2].rpartition(")")
            if int(rest.split()[1]) == os.getpid():
                yield name


def _files() -> Iterator[str]:
    """Yield the open files, sockets by their family."""
    families = {
        f"socket:[{line.split()[column]}]": family
        for family, column in (("tcp", 9), ("tcp6", 9), ("unix", 6))
        for line in Path("/proc/self/net", family).read_text().splitlines()[1:]
    }
    for path in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the file of this listing
            target = os.readlink(path)
            yield families.get(target, target.partition(":[")[0])
