"""Where a model runs, by which engine, and who has to make room for it: pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Resident:
    """A model that holds memory. `used_at` is the end of its last use, on any one clock."""

    model_id: str
    memory_bytes: int
    evictable: bool
    used_at: float


def evictions(need: int, capacity: int, residents: Iterable[Resident]) -> tuple[str, ...] | None:
    """Who has to go so that `need` bytes fit: least recently used first, and no more than that.

    None when not even all who may go would be enough.
    """
    residents = list(residents)
    missing = need - (capacity - sum(resident.memory_bytes for resident in residents))
    chosen: list[Resident] = []
    for resident in sorted(residents, key=lambda r: r.used_at):
        if missing <= 0:
            break
        if resident.evictable:
            chosen.append(resident)
            missing -= resident.memory_bytes
    if missing > 0:
        return None
    for resident in list(chosen):  # a later, larger one may have made an earlier one needless
        if missing + resident.memory_bytes <= 0:
            chosen.remove(resident)
            missing += resident.memory_bytes
    return tuple(resident.model_id for resident in chosen)
