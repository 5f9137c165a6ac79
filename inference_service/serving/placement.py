"""Where a model runs, and by which engine: pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from inference_service.catalog import ModelSpec

RuntimeSetting = Literal["auto", "docker", "process"]
EngineSetting = Literal["auto", "tgi", "llamacpp"]


@dataclass(frozen=True, slots=True)
class RuntimeChoice:
    """The name of the runtime that was chosen, and the reason in one sentence."""

    name: str
    reason: str


def place(
    spec: ModelSpec, runtime: RuntimeSetting, engine: EngineSetting, docker_answers: bool
) -> tuple[str, str]:
    """Name the runtime and the engine of a model.

    In a process only llama.cpp can run. In Docker the engine is the one that the entry names, else
    the one of the setting if the entry has a section for it, else TGI. With `auto` a model that
    only llama.cpp runs is embedded even where Docker answers, because that needs no image.
    """
    if runtime == "process" or not docker_answers:
        return "process", "llamacpp" if "llamacpp" in spec.engines else "tgi"
    chosen = spec.engine or (engine if engine in spec.engines else spec.engines[0])
    if runtime == "auto" and spec.engines == ("llamacpp",):
        return "process", chosen
    return "docker", chosen
