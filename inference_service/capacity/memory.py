"""The memory that engines can have: that of this machine, less where something limits it.

A control group bounds all processes in it and in the groups below it. So each group from that of
this service up to the root counts, in version 1 of the control groups and in version 2.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

log = logging.getLogger(__name__)

# Of each version: the limits. Above `memory.high` the kernel slows a group down until it is of no
# use. The first line of `memory.stat` with this name is the least of a group and all above it, of
# which a container sees none.
_LIMITS = ("memory.limit_in_bytes", "memory.max", "memory.high")
_HIERARCHY = "hierarchical_memory_limit"

MACHINE = "the memory of this machine"
DAEMON = "what the Docker daemon says that it has"


class Limit(NamedTuple):
    """An amount of memory in bytes, and what limits it, for people."""

    size: int
    what: str


def part(size: int) -> int:
    """Return what models can have of so much memory: nine tenths."""
    return size * 9 // 10


def least(root: Path = Path("/"), daemon: int = 0) -> Limit:
    """Return the least limit of this machine, of the control groups, and of a daemon that says one.

    `root` is that of the file system; `daemon` is 0 where no daemon counts.
    """
    limits = [*_of_machine(root), *_of_groups(root)]
    if daemon > 0:
        limits.append(Limit(daemon, DAEMON))
    return min(limit for limit in limits if limit.size > 0)


def usable(root: Path = Path("/"), daemon: int = 0) -> int:
    """Return what models can have together: nine tenths of the least limit."""
    size, what = least(root, daemon)
    engines = "in containers" if daemon else "as processes"
    level = logging.DEBUG if what == MACHINE else logging.INFO
    line = "memory for models %s: %.1f GB, nine tenths of %s; --memory sets another"
    log.log(level, line, engines, size * 0.9e-9, what)
    return part(size)


def warn(given: int | None, root: Path = Path("/")) -> None:
    """Warn of a setting that lets processes have more memory than something else does."""
    size, what = least(root)
    if given is not None and given > size:
        line = "--memory lets models have %.1f GB, and %s is %.1f GB: what takes more is killed"
        log.warning(line, given / 1e9, what, size / 1e9)


def _of_machine(root: Path) -> Iterator[Limit]:
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield Limit(size, MACHINE)
    with contextlib.suppress(OSError, ValueError, IndexError):  # not Linux
        # LXC shows its container another total here than the kernel does.
        line = (root / "proc/meminfo").read_text().split("\n", 1)[0]
        if line.startswith("MemTotal:"):
            yield Limit(int(line.split()[1]) * 1024, MACHINE)


def _of_groups(root: Path) -> Iterator[Limit]:
    for folder in _groups(root):
        for name in _LIMITS:
            with contextlib.suppress(OSError, ValueError):  # no such file, or the word `max`
                yield _of_group(folder, root, int((folder / name).read_text()))
        with contextlib.suppress(OSError, ValueError):
            lines = (folder / "memory.stat").read_text().splitlines()
            counts = dict(line.split(maxsplit=1) for line in lines)
            if _HIERARCHY in counts:
                yield _of_group(folder, root, int(counts[_HIERARCHY]))


def _of_group(folder: Path, root: Path, size: int) -> Limit:
    return Limit(size, f"the limit of the control group /{folder.relative_to(root)}")


def kills(root: Path = Path("/")) -> int:
    """Return how many processes of this service's own group the kernel has killed for memory."""
    total = 0
    for folder, _ in _own_groups(root):
        for name in ("memory.events", "memory.oom_control"):
            with contextlib.suppress(OSError, ValueError):
                lines = (folder / name).read_text().splitlines()
                total += int(dict(line.split(maxsplit=1) for line in lines).get("oom_kill", 0))
    return total


def _groups(root: Path) -> Iterator[Path]:
    """Yield the folder of this service's group, and of each above it, of all hierarchies."""
    for folder, mount in _own_groups(root):
        yield folder
        yield from (each for each in folder.parents if each.is_relative_to(mount))


def _own_groups(root: Path) -> Iterator[tuple[Path, Path]]:
    """Yield the folder of this service's group and that of the hierarchy, of each of them."""
    paths = dict(_paths(root))
    for version, mount, top in _mounts(root):
        path = paths.get(version)
        if path is None:
            continue
        # In a container, the mount begins at the group of the container, and a name of the host
        # may stand where that has no folder.
        below = path.relative_to(top) if path.is_relative_to(top) else PurePosixPath()
        folder = mount / below if ".." not in below.parts and (mount / below).is_dir() else mount
        yield folder, mount


def _paths(root: Path) -> Iterator[tuple[str, PurePosixPath]]:
    """Yield the path of this service's group with the file system of its hierarchy."""
    for line in _lines(root / "proc/self/cgroup"):
        number, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            yield "cgroup", PurePosixPath(path)
        elif number == "0" and not controllers:
            yield "cgroup2", PurePosixPath(path)


def _mounts(root: Path) -> Iterator[tuple[str, Path, PurePosixPath]]:
    """Yield the file system, the folder and the first group of each hierarchy with memory."""
    for line in _lines(root / "proc/self/mountinfo"):
        own, _, kind = line.partition(" - ")
        system, _, options = (*kind.split(" ", 2), "", "", "")[:3]
        if system == "cgroup2" or (system == "cgroup" and "memory" in options.split(",")):
            top, place = own.split(" ")[3:5]
            yield system, root / place.lstrip("/"), PurePosixPath(top)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:  # not Linux
        return []
