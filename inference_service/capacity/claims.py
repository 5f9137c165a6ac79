"""What models claim of memory and GPUs, and which of them have to make room: pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import NamedTuple, TypeVar

from inference_service.key import Key

MEMORY = "memory"  # of a node, among its things


class Thing(NamedTuple):
    """What can be claimed of a node: its MEMORY, or a GPU by its id."""

    node: str
    name: str

    @property
    def is_gpu(self) -> bool:
        return self.name != MEMORY


Amounts = Mapping[Thing, int]  # bytes of each thing

T = TypeVar("T")

USUAL_COUNTS = (1, 2, 4, 8, 16)  # into how many parts the heads of most models can be divided


@dataclass(frozen=True, slots=True)
class GpuNeed:
    """The GPUs that an engine needs; by default all of them, whole.

    `memory_bytes` is the need of the model in all, spread evenly over `count` GPUs; without a count
    over as few GPUs as can hold it. `counts` are the numbers among which the model can be divided;
    without them it may be any, and those are preferred that divide most models.
    """

    memory_bytes: int | None = None
    count: int | None = None
    counts: tuple[int, ...] = ()

    def numbers(self, most: int) -> list[int]:
        """Return the numbers of GPUs, of at most so many, in the order in which they are tried."""
        if self.count is not None:
            return [self.count]
        if self.counts:
            possible = sorted(count for count in self.counts if count <= most)
            return possible if self.memory_bytes is not None else possible[-1:]
        if self.memory_bytes is None:
            return [most]
        usual = [count for count in USUAL_COUNTS if count <= most]
        # Models have 12, 24, 48 or 96 heads more often than 40 or 56.
        others = sorted({*range(1, most + 1)} - {*usual}, key=lambda n: (n % 6 > 0, n % 3 > 0, n))
        return usual + others


@dataclass(frozen=True, slots=True)
class GpuShare:
    """The GPUs of one start, in order, and the mark up to which to fill.

    The mark is a part of the GPU, and includes what other models hold there already.
    """

    ids: tuple[str, ...]
    fraction: float

    @property
    def rounded(self) -> float:
        """The mark in thousandths, rounded down: a larger one could take what others hold."""
        return math.floor(self.fraction * 1000) / 1000


@dataclass(frozen=True, slots=True)
class Demand:
    """The memory that a run needs at most, and its need of GPUs, on one of `nodes`.

    Without nodes it needs nothing here, because its engine runs elsewhere.
    """

    key: Key
    nodes: tuple[str, ...]
    memory_bytes: int
    gpu_need: GpuNeed | None = None


@dataclass(frozen=True, slots=True)
class Resident:
    """A run that holds memory. `used_at` is the end of its last use, on any one clock.

    A `settling` one is on its way to READY: others on its GPUs have to wait for it.
    """

    key: Key
    amounts: Amounts
    evictable: bool
    used_at: float
    settling: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """The amounts that a run would hold, and the runs to evict first."""

    amounts: Amounts
    evicted: tuple[Key, ...] = ()
    must_wait: bool = False


@dataclass(frozen=True, slots=True)
class Quote:
    """A plan with its figures on its node.

    They are what the run would hold, what is free now, and what all models together can have: by
    MEMORY and by the id of each GPU whose memory is counted, in the driver's order.
    """

    plan: Plan
    amounts: Mapping[str, int] = field(default_factory=dict)
    free: Mapping[str, int] = field(default_factory=dict)
    capacity: Mapping[str, int] = field(default_factory=dict)


def gpu_options(need: GpuNeed, limits: Mapping[T, int]) -> list[dict[T, int]]:
    """Return each way to meet a need with GPUs of these limits.

    On one GPU a model holds its need. Several GPUs it has to itself: its engine fills all alike, so
    no figure says how much others may hold of each. Smaller GPUs come first, and larger ones where
    nothing says how small is enough.
    """
    size = need.memory_bytes
    if size is None:
        largest_first = sorted(limits, key=lambda id: -limits[id])
        numbers = need.numbers(len(limits))
        return [option for count in numbers for option in _whole(largest_first, count, limits)]
    smallest_first = sorted(limits, key=lambda id: limits[id])
    for count in need.numbers(len(limits)):
        fit = [id for id in smallest_first if limits[id] * count >= size]
        if count == 1 and fit:
            return [{id: size} for id in fit]
        if options := _whole(fit, count, limits):
            return options
    return []


def _whole(ids: Sequence[T], count: int, limits: Mapping[T, int]) -> list[dict[T, int]]:
    return [{id: limits[id] for id in chosen} for chosen in combinations(ids, count)]


def choose(options: Sequence[Amounts], capacity: Amounts, residents: Sequence[Resident]) -> Plan:
    """Return the best of several ways to let a model in.

    Best is to evict nobody, then those whose last use is the longest ago, then to wait for nobody
    who starts on the same GPU, then to leave least of a GPU unused. Where no way is open now the
    model must wait for models that may not be evicted.
    """
    settling = {id for resident in residents if resident.settling for id in resident.amounts}
    used_at = {resident.key: resident.used_at for resident in residents}

    def cost(plan: Plan) -> tuple[float, int, bool, int]:
        gpus = {thing for thing in plan.amounts if thing.is_gpu}
        spare = sum(
            capacity[id]
            - plan.amounts[id]
            - sum(r.amounts.get(id, 0) for r in residents if r.key not in plan.evicted)
            for id in gpus
        )
        latest = max((used_at[id] for id in plan.evicted), default=-math.inf)
        return latest, len(plan.evicted), not settling.isdisjoint(gpus), spare

    plans = [
        Plan(amounts, evicted)
        for amounts in options
        if (evicted := evictions(amounts, capacity, residents)) is not None
    ]
    return min(plans, key=cost, default=Plan(options[0], must_wait=True))


def evictions(
    need: Amounts, capacity: Amounts, residents: Iterable[Resident]
) -> tuple[Key, ...] | None:
    """Return the runs to evict so that `need` fits: least recently used first, and no more.

    None when not even all evictable models would be enough.
    """
    residents = list(residents)
    missing = {
        name: size - capacity[name] + sum(r.amounts.get(name, 0) for r in residents)
        for name, size in need.items()
    }
    chosen: list[Resident] = []
    for resident in sorted(residents, key=lambda r: r.used_at):
        if resident.evictable and any(size > 0 for size in missing.values()):
            chosen.append(resident)
            _free(missing, resident.amounts)
    if any(size > 0 for size in missing.values()):
        return None
    for resident in list(chosen):  # a later, larger one may have made an earlier one needless
        if all(size + resident.amounts.get(name, 0) <= 0 for name, size in missing.items()):
            chosen.remove(resident)
            _free(missing, resident.amounts, -1)
    return tuple(resident.key for resident in chosen)


def _free(missing: dict[Thing, int], amounts: Amounts, sign: int = 1) -> None:
    for name in missing:
        missing[name] -= sign * amounts.get(name, 0)
