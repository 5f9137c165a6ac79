"""A model as callers see it, frozen at one moment."""

from __future__ import annotations

from dataclasses import dataclass

from inference_service.capacity.claims import Amounts
from inference_service.lifecycle import Status


@dataclass(frozen=True, slots=True)
class View:
    """A model at the time `seen`. Times are Unix seconds, sizes bytes.

    `expire_time` is the end of the idle timeout; None while that is not known, or never.
    """

    id: str
    hf_name: str
    engine: str
    runtime: str
    context_length: int
    memory_bytes: int
    pinned: bool
    status: Status
    gpus: Amounts
    active_count: int
    queued_count: int
    expire_time: float | None
    seen: float


@dataclass(frozen=True, slots=True)
class Removed:
    """A model that was removed from the catalog, and of which nothing is left."""

    id: str
