"""The machines on which engines run, and what each of them has."""

from __future__ import annotations

from dataclasses import dataclass

from inference_service.capacity import memory
from inference_service.capacity.gpus import Gpu

LOCAL = "local"  # the node of the service itself


@dataclass(frozen=True, slots=True)
class Node:
    """A machine: the memory that engines may have there, in bytes, and its GPUs.

    `limit` is what bounds the memory, where that is neither a setting nor all that the machine has.
    """

    name: str
    memory_bytes: int
    gpus: tuple[Gpu, ...] = ()
    limit: str = ""


def local(given: int | None, gpus: tuple[Gpu, ...] = (), daemon: int = 0) -> Node:
    """Return this machine, on which models can have so much memory, or what is usable."""
    if given is not None:
        return Node(LOCAL, given, gpus)
    what = memory.least(daemon=daemon).what
    return Node(LOCAL, memory.usable(daemon=daemon), gpus, "" if what == memory.MACHINE else what)
