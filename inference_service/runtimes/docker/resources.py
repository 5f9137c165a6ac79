"""What a daemon has for its containers: memory and GPUs, as its `info` says."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from inference_service.capacity import memory, nodes
from inference_service.capacity.gpus import Gpu
from inference_service.capacity.nodes import Node

log = logging.getLogger(__name__)

# Such as one that is rootless on control groups of version 1.
NO_LIMITS = (
    "this daemon sets none, so that an engine that needs more than `memory` of its entry can take "
    "all that the machine has"
)

_ELSEWHERE = "docker"  # the node of a daemon on another machine


def node(
    info: Mapping[str, Any], gpus: Sequence[Gpu], memory_bytes: int | None, *, here: bool
) -> Node:
    """Return the machine of a daemon, which is `here` or another one.

    A daemon here shares the machine with the processes of this service: what one of them claims is
    not free for the other. `memory_bytes` is the setting, which wins. Docker Desktop and others run
    the daemon in a virtual machine with less memory than this one.
    """
    total = info.get("MemTotal") or 0
    if here or not total:
        return nodes.local(memory_bytes, tuple(gpus), total)
    if memory_bytes is not None:
        return Node(_ELSEWHERE, memory_bytes, tuple(gpus))
    return Node(_ELSEWHERE, memory.part(total), tuple(gpus), memory.DAEMON)


def warn_of_missing_limits(info: Mapping[str, Any]) -> None:
    """Warn where the daemon says that its containers have no memory limit."""
    if info.get("MemoryLimit") is False:
        log.warning("containers have no memory limit: %s", NO_LIMITS)
