"""The machines on which engines run, and what each of them has."""

from __future__ import annotations

from dataclasses import dataclass

from inference_service.capacity.gpus import Gpu

LOCAL = "local"  # the node of the service itself


@dataclass(frozen=True, slots=True)
class Node:
    """A machine: the memory that engines may have there, in bytes, and its GPUs."""

    name: str
    memory_bytes: int
    gpus: tuple[Gpu, ...] = ()
