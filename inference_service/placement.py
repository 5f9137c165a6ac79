"""Where a model runs, and by which engine: pure."""

from __future__ import annotations

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
    if runtime == "auto" and engine == "auto" and spec.engines == ("llamacpp",):
        return "process", chosen
    return "docker", chosen
