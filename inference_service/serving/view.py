"""A model as callers see it, frozen at one moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from inference_service.lifecycle import State, Status


@dataclass(frozen=True, slots=True)
class InstanceView:
    """One instance of a model; `url` is empty until its engine runs."""

    name: str
    url: str
    state: State
    active_count: int
    gpus: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class View:
    """A model at the time `seen`. Times are Unix seconds, sizes bytes.

    `placement` says why it is this engine. `expire_time` is the end of the idle timeout; None while
    that is not known, or never.
    """

    id: str
    hf_name: str
    aliases: Sequence[str]
    paths: Sequence[str]
    engine: str
    runtime: str
    placement: str
    context_length: int
    memory_bytes: int
    pinned: bool
    status: Status
    gpus: Mapping[str, int]
    active_count: int
    queued_count: int
    expire_time: float | None
    seen: float
    instances: tuple[InstanceView, ...] = ()


@dataclass(frozen=True, slots=True)
class Removed:
    """A model that was removed from the catalog, and of which nothing is left."""

    id: str
