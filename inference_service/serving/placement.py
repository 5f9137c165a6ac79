"""Where a model runs, and by which engine: pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from inference_service.catalog import ModelSpec

RuntimeSetting = Literal["auto", "docker", "process"]


@dataclass(frozen=True, slots=True)
class RuntimeChoice:
    """The name of the runtime that was chosen, and the reason in one sentence."""

    name: str
    reason: str


class Placement(NamedTuple):
    """The names of the runtime and of the engine of a model, and why it is this engine."""

    runtime: str
    engine: str
    reason: str


def place(
    spec: ModelSpec,
    runtime: RuntimeSetting,
    engine: str,
    docker_answers: bool,
    has_gpu: bool = True,
) -> Placement:
    """Name the runtime and the engine of a model.

    The engine is one that can run here: the one that the entry names, else the one of the setting
    if the entry has a section for it, else the first in the table of kinds that does not need a GPU
    which Docker lacks. It runs in the best of its runtimes. With `auto`, a model with one engine
    that can be a process is one even where Docker answers, because that needs no image. Where
    nothing can run, the runtime of processes gets the model, and refuses it when it is to start.
    """
    refused = () if docker_answers and runtime != "process" else ("docker",)
    open_to = {
        name: [place for place in needs.runtimes if place not in refused]
        for name, needs in spec.sections.items()
    }
    names: Sequence[str] = [name for name in spec.engines if open_to[name]] or spec.engines
    able: Sequence[str] = [
        name for name in names if has_gpu or not spec.sections[name].needs_gpu
    ] or names
    named = next((name for name in (spec.engine, engine) if name in names), None)
    chosen = named or able[0]
    reason = _reason(spec, engine, chosen, names, able)
    runtimes = open_to[chosen] or ["process"]
    alone = len(spec.engines) == 1 or (named is None and chosen != names[0])
    if runtime == "auto" and alone and "process" in runtimes:
        return Placement("process", chosen, reason)
    return Placement(runtimes[0], chosen, reason)


def _reason(
    spec: ModelSpec, setting: str, chosen: str, names: Sequence[str], able: Sequence[str]
) -> str:
    """Say why it is this engine; `names` have a runtime here, and `able` ones can run the model."""
    if len(spec.engines) == 1:
        return f"its entry has {chosen} alone"
    if chosen == spec.engine:
        return f"its entry names {chosen}"
    if chosen == setting:
        return f"the setting `engine` is {chosen}"
    lacks = [f"{name} needs Docker" for name in spec.engines if name not in names]
    lacks += [f"{name} needs a GPU for it" for name in names if name not in able]
    if lacks:
        return f"{', and '.join(lacks)}, which the service does not have"
    return f"{chosen} is the first of {', '.join(able)}"
