"""The memory limit of an engine that is a process.

A control group holds the limit where this service may make one: the kernel then kills the engine
that needs more. Elsewhere the anonymous memory of its processes is looked at. The pages of a file
that is mapped, such as the weights of llama.cpp, are not its own: the kernel takes them back.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from inference_service.capacity import memory
from inference_service.runtimes.control_group import ControlGroup

# What llama.cpp takes to read a prompt of 4 MiB, the largest: 140 to 300 MB, by its words.
_PROMPT = 320 << 20
_MOST_SLOTS = 16  # that have such a prompt at once

# Between two looks an engine can take so much memory in a second.
_FASTEST = 4 << 30
_LOOKS = (0.05, 1.0)  # seconds between two of them, at least and at most
_FAMILY = 5.0  # seconds between two looks for its children


def limit(claim: int, slots: int) -> int:
    """Return the limit of an engine, which none that works as it should meets.

    A claim is an estimate. That of llama-2-7b is 12 GB, and its weights have 4.1 GB, which
    llama.cpp copies to repack them, and its cache 8.6 GB. Story-mini claims 256 MiB, and takes up
    to 52. Beside that, each slot can have a prompt to read.
    """
    return claim + claim // 2 + min(slots, _MOST_SLOTS) * _PROMPT


class MemoryLimit:
    """The limit of the process group that `pid` leads, from the start of the process to its end."""

    def __init__(self, pid: int, claim: int, slots: int, *, groups: bool = True) -> None:
        self._pid = pid
        self._limit = limit(claim, slots)
        self._killed = self._full = self._closed = False
        self._kills = memory.kills()
        self._group = ControlGroup.around(pid, self._limit) if groups else None
        self._watch = None if self._group else asyncio.create_task(self._watched())

    def exceeded(self, code: int) -> str | None:
        """Return the limit that ended the engine: "" for its own, None where none did."""
        if self._has_killed():
            return "" if self._is_full() else memory.least().what
        if code == -signal.SIGKILL and memory.kills() > self._kills:
            return memory.least().what
        return None

    def _has_killed(self) -> bool:
        return self._killed or (self._group is not None and self._group.has_killed())

    def _is_full(self) -> bool:
        if self._closed:
            return self._full
        return self._group is None or self._group.is_full()

    async def aclose(self) -> None:
        """Remove what the limit has made; the processes have ended."""
        self._killed, self._full = self._has_killed(), self._is_full()
        self._closed = True
        if self._group is not None:
            await self._group.aclose()
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])

    async def _watched(self) -> None:
        loop = asyncio.get_running_loop()
        family: tuple[int, ...] = ()
        look_again = 0.0
        while True:
            if loop.time() >= look_again:
                family, look_again = tuple(_family(self._pid)), loop.time() + _FAMILY
            left = self._limit - sum(map(_anonymous, family))
            if left < 0:
                self._killed = True
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._pid, signal.SIGKILL)
                return
            least, most = _LOOKS
            await asyncio.sleep(min(max(least, left / _FASTEST), most))


def _anonymous(pid: int) -> int:
    """Return the anonymous memory of a process in bytes, with what is swapped out."""
    total = 0
    try:
        for line in Path(f"/proc/{pid}/status").read_bytes().splitlines():
            if line.startswith((b"RssAnon:", b"VmSwap:")):
                total += int(line.split()[1]) * 1024
    except OSError:  # the process has ended
        pass
    return total


def _family(pid: int) -> Iterator[int]:
    """Yield a process and all that descend from it."""
    yield pid
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return
    for thread in threads:
        try:
            children = (thread / "children").read_bytes().split()
        except OSError:
            continue
        for child in children:
            yield from _family(int(child))
