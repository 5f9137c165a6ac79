"""Lets models in by the memory that they need, one after the other, making room where it can."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Protocol

from inference_service import failures
from inference_service.placement import Resident, evictions

Waits = Callable[[int, str], None]  # told the place in the queue, and for whom it waits


class Tenant(Protocol):
    """A model, as far as its memory goes."""

    @property
    def model_id(self) -> str:
        """Its id."""

    @property
    def memory_bytes(self) -> int:
        """What it may use, at most."""

    @property
    def evictable(self) -> bool:
        """Whether it is READY, unused, not pinned, and has been for its minimum time."""

    @property
    def used_at(self) -> float:
        """The end of its last use."""

    @property
    def lingers(self) -> bool:
        """Whether it has ended, but may still use its memory, since it could not be removed yet."""

    async def evict(self) -> bool:
        """Stop it if it is still evictable; return when it is gone, or False."""


class Admission:
    """The memory of this machine. Whoever waits is served in the order of arrival.

    Nobody overtakes, so that a large model is not starved by small ones.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self._residents: dict[str, Tenant] = {}
        self._lingering: dict[str, Tenant] = {}
        self._queue: deque[object] = deque()
        self._changed = asyncio.Event()

    @property
    def free_bytes(self) -> int:
        """What no model has claimed."""
        return self.capacity_bytes - sum(t.memory_bytes for t in self._held().values())

    def plan(self, tenant: Tenant) -> tuple[str, ...] | None:
        """Who would be evicted for this model now; None when it would have to wait for others.

        Raises InsufficientMemory when it can never fit.
        """
        if tenant.memory_bytes > self.capacity_bytes:
            raise failures.never_fits(tenant.model_id, tenant.memory_bytes, self.capacity_bytes)
        held = self._held()
        if tenant.model_id in held:
            return ()
        residents = (
            Resident(t.model_id, t.memory_bytes, t.evictable, t.used_at) for t in held.values()
        )
        return evictions(tenant.memory_bytes, self.capacity_bytes, residents)

    @asynccontextmanager
    async def room(self, tenant: Tenant, waits: Waits) -> AsyncGenerator[None]:
        """Hold the memory of `tenant`, once there is room; `waits` is told its place, of which 1 is
        next, and for whom it waits.

        Raises InsufficientMemory when it can never fit.
        """
        self.plan(tenant)
        turn = object()
        self._queue.append(turn)
        try:
            await self._make_room(tenant, turn, waits)
            self._residents[tenant.model_id] = tenant
        finally:
            self._queue.remove(turn)
            self.changed()
        try:
            yield
        finally:
            self._lingering[tenant.model_id] = self._residents.pop(tenant.model_id)
            self.changed()

    def _held(self) -> dict[str, Tenant]:
        """Who has memory: all that run, and those of which something is still to be removed."""
        self._lingering = {id: t for id, t in self._lingering.items() if t.lingers}
        return self._lingering | self._residents

    def changed(self) -> None:
        """Somebody may have become evictable, or has gone."""
        if self._queue:
            self._changed.set()

    async def _make_room(self, tenant: Tenant, turn: object, waits: Waits) -> None:
        while True:
            self._changed.clear()
            if self._queue[0] is turn:
                victims = self.plan(tenant)
                if victims == ():
                    return
                if victims:
                    await self._residents[victims[0]].evict()
                    continue
            place = self._queue.index(turn) + 1
            waits(place, f"waits for memory that {', '.join(self._held())} use")
            # A model becomes evictable by the mere passing of its minimum time, too; and what
            # lingers goes without a word.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._changed.wait()
