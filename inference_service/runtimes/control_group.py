"""A control group of Linux with a memory limit, of version 1 or 2."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
from collections.abc import Iterator
from pathlib import Path

_PREFIX = "inference-service-"
_numbers = itertools.count(1)

# Memory of which the kernel counts the whole or nothing, with room.
_BATCH = 1 << 20

# How long the kernel may take to let go of the processes of a group.
_ENDS = 2.0


class ControlGroup:
    """A group that holds one engine. The kernel kills the engine that needs more memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    def around(cls, pid: int, limit: int, root: Path = Path("/")) -> ControlGroup | None:
        """Put a process into a new group; None where this service may make none.

        The process must have begun no other. `root` is that of the file system.
        """
        for parent in _parents(root):
            folder = parent / f"{_PREFIX}{os.getpid()}-{next(_numbers)}"
            try:
                _sweep(parent, root)
                folder.mkdir()
            except OSError:  # it is not ours, or read-only as in a container
                continue
            try:
                _limit(folder, limit)
                (folder / "cgroup.procs").write_text(str(pid))
            except OSError:
                with contextlib.suppress(OSError):
                    folder.rmdir()
                continue
            return cls(folder)
        return None

    def has_killed(self) -> bool:
        """Return whether the kernel has killed a process of the group for its memory."""
        for name in ("memory.events", "memory.oom_control"):
            with contextlib.suppress(OSError):
                return self._counts(name).get("oom_kill", "0") != "0"
        return False

    def is_full(self) -> bool:
        """Return whether the group has met its own limit, and not one of a group above it."""
        with contextlib.suppress(OSError, ValueError):
            most, limit = (
                int((self._folder / f"memory.{name}_in_bytes").read_text())
                for name in ("max_usage", "limit")
            )
            return most > limit - _BATCH
        with contextlib.suppress(OSError):
            return self._counts("memory.events").get("oom") != "0"
        return True

    def _counts(self, name: str) -> dict[str, str]:
        lines = (self._folder / name).read_text().splitlines()
        return dict(line.split(maxsplit=1) for line in lines)

    async def aclose(self) -> None:
        """Kill what is left in the group, which the engine has left behind, and remove it."""
        loop = asyncio.get_running_loop()
        latest = loop.time() + _ENDS
        while True:
            try:
                self._folder.rmdir()
                return
            except FileNotFoundError:
                return
            except OSError:  # a process is in it, or on its way out
                if loop.time() > latest:
                    return
            self._kill()
            await asyncio.sleep(0.01)

    def _kill(self) -> None:
        with contextlib.suppress(OSError):
            for word in (self._folder / "cgroup.procs").read_text().split():
                if (pid := int(word)) > 0:  # 0 is one of another namespace
                    os.kill(pid, signal.SIGKILL)


def _limit(folder: Path, limit: int) -> None:
    """Set the limit, without swap where the kernel counts that: it makes a model too slow."""
    if (folder / "memory.max").exists():
        (folder / "memory.max").write_text(str(limit))
        optional = {"memory.swap.max": "0", "memory.oom.group": "1"}
    else:
        (folder / "memory.limit_in_bytes").write_text(str(limit))
        optional = {"memory.memsw.limit_in_bytes": str(limit)}
    for name, value in optional.items():
        with contextlib.suppress(OSError):
            if (folder / name).exists():
                (folder / name).write_text(value)


def _parents(root: Path) -> Iterator[Path]:
    """Yield the groups below which one with a memory limit may be made.

    Those are the group of this service and the one above it: in version 2, a group with processes
    of its own can have none with limits below it.
    """
    try:
        ours = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in ours:
        _, controllers, path = line.split(":", 2)
        mount = root / "sys/fs/cgroup"
        if "memory" in controllers.split(","):
            mount /= "memory"
        elif controllers or not (mount / "cgroup.controllers").exists():
            continue
        own = mount / path.lstrip("/")
        if not own.is_dir():  # of a container, whose mount begins at its own group
            own = mount
        for folder in dict.fromkeys((own, own.parent if own != mount else own)):
            if controllers or _passes_memory_on(folder):
                yield folder


def _passes_memory_on(folder: Path) -> bool:
    try:
        return "memory" in (folder / "cgroup.subtree_control").read_text().split()
    except OSError:
        return False


def _sweep(parent: Path, root: Path) -> None:
    """Remove the groups of services that were killed."""
    for folder in parent.glob(f"{_PREFIX}*"):
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and not (root / "proc" / pid).exists():
            with contextlib.suppress(OSError):  # its engine still ends
                folder.rmdir()
