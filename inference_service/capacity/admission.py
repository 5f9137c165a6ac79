"""Lets models in by the memory that they need, one after the other, making room where it can."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from inference_service.capacity.claims import (
    MEMORY,
    Claim,
    GpuNeed,
    GpuShare,
    Plan,
    Resident,
    choose,
    gpu_claims,
)
from inference_service.capacity.gpus import Gpu
from inference_service.errors import InsufficientGpus, InsufficientMemory

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
    def gpu_need(self) -> GpuNeed | None:
        """What it needs of the GPUs; None where it gets none."""

    @property
    def settled(self) -> bool:
        """Whether its start is over, so that it takes no more GPU memory than it has."""

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


@dataclass(slots=True)
class _Stay:
    """What a tenant holds. One that was `kept` has its engine already; one `inside` may run it."""

    tenant: Tenant
    claim: Claim
    kept: bool = False
    inside: bool = False

    @property
    def settling(self) -> bool:
        return not self.tenant.settled

    @property
    def filling(self) -> bool:
        return self.inside and self.settling and not self.kept

    @property
    def gpu_ids(self) -> tuple[str, ...]:
        return tuple(id for id in self.claim if id != MEMORY)


class Admission:
    """The memory of this machine and of its GPUs. Whoever waits is served in the order of arrival.

    Nobody overtakes, so that a large model is not starved by small ones. Those on one GPU start one
    after the other: an engine fills it up to a mark, and has to find there what came before it.
    """

    def __init__(self, capacity_bytes: int, gpus: Sequence[Gpu] = ()) -> None:
        self.capacity_bytes = capacity_bytes
        self.gpus = tuple(gpus)
        self._limits = {gpu.id: gpu.limit_bytes for gpu in gpus}
        self._capacity = {MEMORY: capacity_bytes} | self._limits
        self._stays: dict[str, _Stay] = {}
        self._lingering: dict[str, _Stay] = {}
        self._kept: dict[str, tuple[str, ...]] = {}  # see `keep`
        self._queue: deque[object] = deque()
        self._waiting = 0
        self._changed = asyncio.Event()

    @property
    def free_bytes(self) -> int:
        """What no model has claimed of the machine's memory."""
        return self.free(MEMORY)

    def free(self, name: str) -> int:
        """What no model has claimed of MEMORY, or of the GPU of this id."""
        return self._capacity[name] - sum(s.claim.get(name, 0) for s in self._held())

    def gpu_claim(self, model_id: str) -> Claim:
        """What a model holds of GPUs; nothing where it does not run."""
        stay = self._stays.get(model_id)
        return {id: stay.claim[id] for id in stay.gpu_ids} if stay else {}

    def keep(self, model_id: str, gpu_ids: tuple[str, ...]) -> None:
        """Give these GPUs to the next start of a model, whose engine runs on them already."""
        self._kept[model_id] = gpu_ids

    def plan(self, tenant: Tenant) -> Plan:
        """What the model would hold, and who would be evicted, or whether it would have to wait.

        Raises InsufficientMemory when it can never fit.
        """
        claims = self._claims(tenant)
        if (stay := self._stays.get(tenant.model_id)) is not None:
            return Plan(stay.claim)
        return choose(claims, self._capacity, [*self._residents(tenant)])

    @asynccontextmanager
    async def room(self, tenant: Tenant, waits: Waits) -> AsyncGenerator[GpuShare | None]:
        """Hold the memory of `tenant`, once there is room; `waits` is told its place, of which 1 is
        next, and for whom it waits.

        The block is told which GPUs it has; None where it gets none that are counted. Raises
        InsufficientMemory when it can never fit.
        """
        self.plan(tenant)
        turn = object()
        self._queue.append(turn)
        try:
            claim = await self._make_room(tenant, turn, waits)
            stay = self._stays[tenant.model_id] = _Stay(tenant, claim)
        finally:
            self._queue.remove(turn)
            self.changed()
        try:
            stay.kept = {*self._kept.pop(tenant.model_id, ())} == {*stay.gpu_ids}
            if not stay.kept:
                await self._others_settle(stay, waits)
            stay.inside = True
            yield self._share(stay)
        finally:
            self._leave(stay)
            self.changed()

    def _held(self) -> list[_Stay]:
        """Who has memory: all that run, and those of which something is still to be removed."""
        self._lingering = {id: s for id, s in self._lingering.items() if s.tenant.lingers}
        return [*(self._lingering | self._stays).values()]

    def _leave(self, stay: _Stay) -> None:
        del self._stays[stay.tenant.model_id]
        if stay.tenant.lingers:
            self._lingering[stay.tenant.model_id] = stay
        else:
            self._inherit(stay)

    def changed(self) -> None:
        """Somebody may have become evictable, has settled, or has gone."""
        if self._waiting:
            self._changed.set()

    def _claims(self, tenant: Tenant) -> list[Claim]:
        """Each way to give it what it needs, on an empty machine."""
        if tenant.memory_bytes > self.capacity_bytes:
            raise InsufficientMemory(tenant.model_id, tenant.memory_bytes, self.capacity_bytes)
        if (need := tenant.gpu_need) is None or not self.gpus:
            return [{MEMORY: tenant.memory_bytes}]
        claims = gpu_claims(need, self._limits)
        if not claims:
            limits = [*self._limits.values()]
            raise InsufficientGpus(tenant.model_id, need.memory_bytes, need.count, limits)
        kept = {*self._kept.get(tenant.model_id, ())}
        claims = [claim for claim in claims if claim.keys() == kept] or claims
        return [{MEMORY: tenant.memory_bytes, **claim} for claim in claims]

    def _residents(self, newcomer: Tenant) -> Iterator[Resident]:
        # What leaves a GPU on which another starts goes to that other, so nobody is made to leave.
        starting = {id for stay in self._stays.values() if stay.settling for id in stay.gpu_ids}
        for stay in self._held():
            tenant = stay.tenant
            if tenant is newcomer:  # what lingers of it goes before it starts
                continue
            evictable = tenant.evictable and starting.isdisjoint(stay.gpu_ids)
            yield Resident(tenant.model_id, stay.claim, evictable, tenant.used_at, stay.settling)

    async def _make_room(self, tenant: Tenant, turn: object, waits: Waits) -> Claim:
        while True:
            self._changed.clear()
            if self._queue[0] is turn:
                plan = self.plan(tenant)
                if plan.evicted:
                    await self._stays[plan.evicted[0]].tenant.evict()
                    continue
                if not plan.must_wait:
                    return plan.claim
            holders = ", ".join(stay.tenant.model_id for stay in self._held())
            waits(self._queue.index(turn) + 1, f"waits for memory that {holders} use")
            await self._change()

    async def _others_settle(self, stay: _Stay, waits: Waits) -> None:
        """Wait for those who came to its GPUs before it, and are not READY yet."""
        while True:
            self._changed.clear()
            starting = [s.tenant.model_id for s in self._before(stay) if s.settling]
            if not starting:
                return
            told = f"waits until {', '.join(starting)} has started on the same GPU"
            waits(len(starting), told)
            await self._change()

    async def _change(self) -> None:
        self._waiting += 1
        try:
            # A model becomes evictable by the mere passing of its minimum time, too; and what
            # lingers goes without a word.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._changed.wait()
        finally:
            self._waiting -= 1

    def _before(self, stay: _Stay) -> Iterator[_Stay]:
        """Those who share a GPU with it, and came before it."""
        for other in self._stays.values():
            if other is stay:
                return
            if not set(other.gpu_ids).isdisjoint(stay.gpu_ids):
                yield other

    def _share(self, stay: _Stay) -> GpuShare | None:
        before = [stay, *self._before(stay)]
        marks = [
            sum(s.claim.get(gpu.id, 0) for s in before) / gpu.memory_bytes
            for gpu in self.gpus
            if gpu.id in stay.claim
        ]
        return GpuShare(stay.gpu_ids, min(marks)) if marks else None

    def _inherit(self, gone: _Stay) -> None:
        """Who is filling a GPU up to its mark takes what leaves it meanwhile, too."""
        for stay in self._stays.values():
            if gone.inside and stay.filling:
                extra = {id: gone.claim[id] for id in gone.gpu_ids if id in stay.claim}
                stay.claim = {n: size + extra.get(n, 0) for n, size in stay.claim.items()}
