"""Admission of runs to memory and GPUs, in the order of arrival, with eviction."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from inference_service.capacity.claims import (
    MEMORY,
    Amounts,
    Demand,
    GpuShare,
    Plan,
    Quote,
    Resident,
    Thing,
    choose,
    gpu_options,
)
from inference_service.capacity.nodes import LOCAL, Node
from inference_service.errors import InsufficientGpus, InsufficientMemory
from inference_service.key import Key
from inference_service.lifecycle import Phase, Progress


class Tenant(Protocol):
    """A run, as far as its memory goes."""

    @property
    def demand(self) -> Demand:
        """The memory that the run needs."""

    @property
    def settled(self) -> bool:
        """Whether the start is over, and with it the growth of GPU memory."""

    @property
    def evictable(self) -> bool:
        """Whether the run is READY, unused, not pinned, and has been for its minimum time."""

    @property
    def used_at(self) -> float:
        """The end of the last use."""

    @property
    def removal_pending(self) -> bool:
        """Whether the run is over, but its instance may still use memory."""

    async def evict(self) -> bool:
        """Stop the run if it is still evictable; return when it is gone, or False."""


class Claim:
    """The memory and the GPUs of one run: waited for in a queue, then held until it is over."""

    def __init__(self, admission: Admission, tenant: Tenant) -> None:
        self.tenant = tenant
        self.key = tenant.demand.key
        self.amounts: Amounts = {}  # until there is room
        self.adopted = False  # its engine runs already
        self.inside = False  # its engine may run from now on
        self._admission = admission

    def granted(self) -> AsyncGenerator[Progress]:
        """Yield the progress of the wait, at each look; end when the engine may start."""
        return self._admission.grant(self)

    @property
    def gpus(self) -> GpuShare | None:
        """The GPUs of a granted claim; None without any that are counted."""
        return self._admission.share(self)

    @property
    def settling(self) -> bool:
        """Whether its engine may still take GPU memory."""
        return not self.tenant.settled

    @property
    def filling(self) -> bool:
        """Whether its engine fills a GPU up to a mark now."""
        return self.inside and self.settling and not self.adopted

    @property
    def gpu_things(self) -> tuple[Thing, ...]:
        """The GPUs of which the claim holds memory."""
        return tuple(thing for thing in self.amounts if thing.is_gpu)

    @property
    def gpu_ids(self) -> tuple[str, ...]:
        """The ids of these GPUs on their node."""
        return tuple(thing.name for thing in self.gpu_things)


class Admission:
    """The memory of each node and of its GPUs, and the queue for them.

    No claim overtakes another, so that small models do not starve a large one. Runs on one GPU
    start one after the other: an engine fills the GPU up to a mark, and has to find there what came
    before.
    """

    def __init__(self, nodes: Iterable[Node]) -> None:
        self._sizes: dict[Thing, int] = {}  # of the GPUs
        self._capacity: dict[Thing, int] = {}
        self._limits: dict[str, str] = {}  # by node: what bounds its memory
        self._claims: dict[Key, Claim] = {}
        self._unremoved: dict[Key, Claim] = {}
        self._kept: dict[Key, tuple[str, ...]] = {}  # see `keep`
        self._queue: deque[Claim] = deque()
        self._changed = asyncio.Event()
        for node in nodes:
            self.add(node)

    def add(self, node: Node) -> None:
        """Count a node, or what is new of one that is counted."""
        self._capacity[Thing(node.name, MEMORY)] = node.memory_bytes
        self._limits[node.name] = node.limit
        for gpu in node.gpus:
            thing = Thing(node.name, gpu.id)
            self._sizes[thing] = gpu.memory_bytes
            self._capacity[thing] = gpu.limit_bytes
        self.changed()

    @property
    def waiting(self) -> bool:
        """Whether a run waits for memory that others hold."""
        return bool(self._queue)

    def free(self, name: str, node: str = LOCAL) -> int:
        """Return the unclaimed bytes of a node's MEMORY, or of its GPU of this id."""
        thing = Thing(node, name)
        return self._capacity[thing] - sum(c.amounts.get(thing, 0) for c in self._held())

    def gpu_amounts(self, key: Key) -> Mapping[str, int]:
        """Return the bytes that a run holds of each GPU, by its id."""
        claim = self._claims.get(key)
        return {gpu.name: claim.amounts[gpu] for gpu in claim.gpu_things} if claim else {}

    def keep(self, key: Key, gpu_ids: tuple[str, ...]) -> None:
        """Give a run the GPUs on which its engine runs already, at its next start."""
        self._kept[key] = gpu_ids

    def plan(self, demand: Demand) -> Plan:
        """Return the amounts that a run would hold, and the evictions before that.

        Raises InsufficientMemory when the run can never fit.
        """
        options = self._options(demand)
        if (claim := self._claims.get(demand.key)) is not None:
            return Plan(claim.amounts)
        return choose(options, self._capacity, [*self._residents(demand.key)])

    def quote(self, demand: Demand) -> Quote:
        """Return the plan with the figures behind it. Raises InsufficientMemory."""
        plan = self.plan(demand)
        nodes = {thing.node for thing in plan.amounts}
        things = [thing for thing in self._capacity if thing.node in nodes]
        return Quote(
            plan,
            {thing.name: plan.amounts.get(thing, 0) for thing in things},
            {thing.name: self.free(thing.name, thing.node) for thing in things},
            {thing.name: self._capacity[thing] for thing in things},
        )

    @contextmanager
    def claim(self, tenant: Tenant) -> Iterator[Claim]:
        """Queue a claim; leaving the block removes the claim, or gives back its memory.

        Raises InsufficientMemory when it can never be granted.
        """
        self.plan(tenant.demand)
        claim = Claim(self, tenant)
        self._queue.append(claim)
        try:
            yield claim
        finally:
            self._leave(claim)
            self.changed()

    def changed(self) -> None:
        """Have the claims in the queue look again: a run may be evictable, settled, or gone."""
        self._changed.set()

    async def grant(self, claim: Claim) -> AsyncGenerator[Progress]:
        """Wait for room, then for those who start on the same GPUs; see `Claim.granted`."""
        while not await self._make_room(claim):
            holders = ", ".join(str(other.key) for other in self._held())
            yield _waiting(self._queue.index(claim) + 1, f"waits for memory that {holders} use")
            await self._change()
        claim.adopted = {*self._kept.pop(claim.key, ())} == {*claim.gpu_ids}
        while not claim.adopted and (starting := self._starting_before(claim)):
            message = f"waits until {', '.join(starting)} has started on the same GPU"
            yield _waiting(len(starting), message)
            await self._change()
        claim.inside = True

    def share(self, claim: Claim) -> GpuShare | None:
        """Return the GPUs of a claim, with the mark for its engine."""
        before = [claim, *self._before(claim)]
        marks = [
            sum(c.amounts.get(gpu, 0) for c in before) / self._sizes[gpu]
            for gpu in claim.gpu_things
        ]
        return GpuShare(claim.gpu_ids, min(marks)) if marks else None

    def _held(self) -> list[Claim]:
        """Return the claims of all runs, with those whose removal is pending."""
        self._unremoved = {id: c for id, c in self._unremoved.items() if c.tenant.removal_pending}
        return [*(self._unremoved | self._claims).values()]

    def _leave(self, claim: Claim) -> None:
        if claim in self._queue:
            self._queue.remove(claim)
            return
        del self._claims[claim.key]
        if claim.tenant.removal_pending:
            self._unremoved[claim.key] = claim
        else:
            self._inherit(claim)

    def _options(self, demand: Demand) -> list[Amounts]:
        """Return each way to meet a demand on empty nodes."""
        if not demand.nodes:
            return [{}]
        sizes = {node: self._capacity[Thing(node, MEMORY)] for node in demand.nodes}
        nodes = [node for node, size in sizes.items() if demand.memory_bytes <= size]
        if not nodes:
            model_id, largest = demand.key.model_id, max(sizes.values())
            limit = next((self._limits[n] for n, size in sizes.items() if size == largest), "")
            raise InsufficientMemory(model_id, demand.memory_bytes, largest, limit)
        options = [option for node in nodes for option in self._options_on(node, demand)]
        if not options:
            need = demand.gpu_need
            assert need is not None, "a node with enough memory is enough without GPUs"
            limits = [self._capacity[gpu] for node in nodes for gpu in self._gpus(node)]
            least = min(need.counts, default=None) if need.memory_bytes is None else None
            count = need.count or least
            raise InsufficientGpus(demand.key.model_id, need.memory_bytes, count, limits)
        kept = {*self._kept.get(demand.key, ())}
        return [option for option in options if _gpu_ids(option) == kept] or options

    def _options_on(self, node: str, demand: Demand) -> list[Amounts]:
        memory = {Thing(node, MEMORY): demand.memory_bytes}
        gpus = self._gpus(node)
        if demand.gpu_need is None or not gpus:
            return [memory]
        limits = {gpu: self._capacity[gpu] for gpu in gpus}
        return [memory | option for option in gpu_options(demand.gpu_need, limits)]

    def _gpus(self, node: str) -> list[Thing]:
        return [gpu for gpu in self._sizes if gpu.node == node]

    def _residents(self, newcomer: Key) -> Iterator[Resident]:
        # What leaves a GPU on which another run starts goes to that run, so nobody is evicted
        # there.
        starting = {
            gpu for claim in self._claims.values() if claim.settling for gpu in claim.gpu_things
        }
        for claim in self._held():
            if claim.key == newcomer:  # what is left of it is removed before it starts
                continue
            tenant = claim.tenant
            same = claim.key.model_id == newcomer.model_id
            free = starting.isdisjoint(claim.gpu_things)
            evictable = tenant.evictable and free and not same
            yield Resident(claim.key, claim.amounts, evictable, tenant.used_at, claim.settling)

    async def _make_room(self, claim: Claim) -> bool:
        """Evict for the first claim in the queue, and grant the memory of that."""
        self._changed.clear()
        while self._queue[0] is claim:
            plan = self.plan(claim.tenant.demand)
            if plan.must_wait:
                break
            if not plan.evicted:
                claim.amounts = plan.amounts
                self._claims[claim.key] = self._queue.popleft()
                self.changed()
                return True
            await self._claims[plan.evicted[0]].tenant.evict()
            self._changed.clear()
        return False

    async def _change(self) -> None:
        # A second at most: a run becomes evictable by the mere passing of its minimum time, too,
        # and a pending removal ends without notice.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await self._changed.wait()

    def _before(self, claim: Claim) -> Iterator[Claim]:
        """Yield the claims that share a GPU with this one, and were granted before it."""
        for other in self._claims.values():
            if other is claim:
                return
            if not set(other.gpu_things).isdisjoint(claim.gpu_things):
                yield other

    def _starting_before(self, claim: Claim) -> list[str]:
        self._changed.clear()
        return [str(other.key) for other in self._before(claim) if other.settling]

    def _inherit(self, gone: Claim) -> None:
        # An engine that fills a GPU up to its mark takes what leaves the GPU meanwhile, too.
        for claim in self._claims.values():
            if gone.inside and claim.filling:
                extra = {gpu: gone.amounts[gpu] for gpu in gone.gpu_things if gpu in claim.amounts}
                claim.amounts = {n: size + extra.get(n, 0) for n, size in claim.amounts.items()}


def _waiting(position: int, message: str) -> Progress:
    return Progress(Phase.WAITING, message=message, queue_position=position)


def _gpu_ids(amounts: Amounts) -> set[str]:
    return {thing.name for thing in amounts if thing.is_gpu}
