"""Where a model runs, by which engine, and who has to make room for it: pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from inference_service.catalog import ModelSpec

RuntimeSetting = Literal["auto", "docker", "process"]
EngineSetting = Literal["auto", "tgi", "llamacpp"]


def place(
    spec: ModelSpec, runtime: RuntimeSetting, engine: EngineSetting, docker_answers: bool
) -> tuple[str, str]:
    """The names of the runtime and of the engine.

    A process can only be llama.cpp. In Docker it is the engine that the entry names, else the one
    of the setting where the entry has it, else TGI. `auto` leaves the models that only llama.cpp
    runs to the embedded engine, which needs no image, even where Docker answers.
    """
    if runtime == "process" or not docker_answers:
        return "process", "llamacpp" if "llamacpp" in spec.engines else "tgi"
    chosen = spec.engine or (engine if engine in spec.engines else spec.engines[0])
    if runtime == "auto" and spec.engines == ("llamacpp",):
        return "process", chosen
    return "docker", chosen


MEMORY = "memory"  # the machine's own, in a claim

Claim = Mapping[str, int]  # bytes of MEMORY, and of each GPU by its id

_SHARDS = (1, 2, 4, 8, 16)  # into how many parts the heads of most models can be divided


@dataclass(frozen=True, slots=True)
class GpuNeed:
    """What an engine wants of the GPUs: by default all that there is of all of them.

    `memory_bytes` is what the model needs in all, spread evenly over `count` GPUs; without a count
    over as few as can hold it.
    """

    memory_bytes: int | None = None
    count: int | None = None


@dataclass(frozen=True, slots=True)
class GpuShare:
    """The GPUs that one start gets, in order, and the part of each up to which it may fill them.

    That part counts what others hold there already: it is a mark on the GPU, not an amount.
    """

    ids: tuple[str, ...]
    fraction: float


@dataclass(frozen=True, slots=True)
class Resident:
    """A model that holds memory. `used_at` is the end of its last use, on any one clock.

    A `settling` one is on its way to READY: others on its GPUs have to wait for it.
    """

    model_id: str
    claim: Claim
    evictable: bool
    used_at: float
    settling: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What a model would hold, and who has to go before it can, if that is enough."""

    claim: Claim
    evicted: tuple[str, ...] = ()
    must_wait: bool = False


def gpu_claims(need: GpuNeed, limits: Claim) -> list[Claim]:
    """Each way to give a model what it needs of GPUs with these limits; none when there is no way.

    On one GPU it holds what it needs. Several it has to itself: its engine fills all alike, which
    leaves no measure for what others hold of each. Smaller GPUs come first, and larger ones where
    nothing says how small is enough.
    """
    size = need.memory_bytes
    if size is None:
        largest_first = sorted(limits, key=lambda id: -limits[id])
        return _whole(largest_first, need.count or len(limits), limits)
    smallest_first = sorted(limits, key=lambda id: limits[id])
    for count in (need.count,) if need.count else _SHARDS:
        fit = [id for id in smallest_first if limits[id] * count >= size]
        if count == 1 and fit:
            return [{id: size} for id in fit]
        if claims := _whole(fit, count, limits):
            return claims
    return []


def _whole(ids: Sequence[str], count: int, limits: Claim) -> list[Claim]:
    return [{id: limits[id] for id in chosen} for chosen in combinations(ids, count)]


def choose(claims: Sequence[Claim], capacity: Claim, residents: Sequence[Resident]) -> Plan:
    """The best of several ways to let a model in.

    Best is to evict nobody, then those whose last use is the longest ago, then to wait for nobody
    who starts on the same GPU, then to leave least of a GPU unused. Where no way is open now the
    model must wait for those whom it may not evict.
    """
    settling = {id for resident in residents if resident.settling for id in resident.claim}
    used_at = {resident.model_id: resident.used_at for resident in residents}

    def cost(plan: Plan) -> tuple[float, int, bool, int]:
        gpus = plan.claim.keys() - {MEMORY}
        spare = sum(
            capacity[id]
            - plan.claim[id]
            - sum(r.claim.get(id, 0) for r in residents if r.model_id not in plan.evicted)
            for id in gpus
        )
        latest = max((used_at[id] for id in plan.evicted), default=-math.inf)
        return latest, len(plan.evicted), not settling.isdisjoint(gpus), spare

    plans = [
        Plan(claim, gone)
        for claim in claims
        if (gone := evictions(claim, capacity, residents)) is not None
    ]
    return min(plans, key=cost, default=Plan(claims[0], must_wait=True))


def evictions(
    need: Claim, capacity: Claim, residents: Iterable[Resident]
) -> tuple[str, ...] | None:
    """Who has to go so that `need` fits: least recently used first, and no more than that.

    None when not even all who may go would be enough.
    """
    residents = list(residents)
    missing = {
        name: size - capacity[name] + sum(r.claim.get(name, 0) for r in residents)
        for name, size in need.items()
    }
    chosen: list[Resident] = []
    for resident in sorted(residents, key=lambda r: r.used_at):
        if resident.evictable and any(size > 0 for size in missing.values()):
            chosen.append(resident)
            _free(missing, resident.claim)
    if any(size > 0 for size in missing.values()):
        return None
    for resident in list(chosen):  # a later, larger one may have made an earlier one needless
        if all(size + resident.claim.get(name, 0) <= 0 for name, size in missing.items()):
            chosen.remove(resident)
            _free(missing, resident.claim, -1)
    return tuple(resident.model_id for resident in chosen)


def _free(missing: dict[str, int], claim: Claim, sign: int = 1) -> None:
    for name in missing:
        missing[name] -= sign * claim.get(name, 0)
