"""Where a model runs, and by which engine: pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from inference_service.catalog import ModelSpec

RuntimeSetting = Literal["auto", "docker", "process"]


@dataclass(frozen=True, slots=True)
class RuntimeChoice:
    """The name of the runtime that was chosen, and the reason in one sentence."""

    name: str
    reason: str


def place(
    spec: ModelSpec, runtime: RuntimeSetting, engine: str, docker_answers: bool
) -> tuple[str, str]:
    """Name the runtime and the engine of a model.

    The engine is the one that the entry names; else one that can run here: that of the setting if
    the entry has a section for it, else the first in the table of kinds. It runs in the best of
    its runtimes. With `auto`, a model with one engine that can be a process is one even where
    Docker answers, because that needs no image. Where nothing can run, the runtime of processes
    gets the model, and refuses it when it is to start.
    """
    refused = () if docker_answers and runtime != "process" else ("docker",)
    open_to = {
        name: [place for place in needs.runtimes if place not in refused]
        for name, needs in spec.sections.items()
    }
    able = [spec.engine] if spec.engine else [name for name in spec.engines if open_to[name]]
    names = able or spec.engines
    chosen = next((name for name in names if name == spec.engine), None) or (
        engine if engine in names else names[0]
    )
    runtimes = open_to[chosen] or ["process"]
    if runtime == "auto" and len(spec.engines) == 1 and "process" in runtimes:
        return "process", chosen
    return runtimes[0], chosen
