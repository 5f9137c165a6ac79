"""Placement: the whole table of settings, entries and machines."""

from __future__ import annotations

from typing import Any

import pytest

from inference_service.catalog import ModelSpec
from inference_service.engines.llamacpp.section import GgufWeights, LlamacppNeeds
from inference_service.engines.tgi.section import HubWeights, TgiNeeds
from inference_service.serving.placement import RuntimeSetting, place

DOCKER_TGI, DOCKER_LLAMACPP = ("docker", "tgi"), ("docker", "llamacpp")
PROCESS_TGI, PROCESS_LLAMACPP = ("process", "tgi"), ("process", "llamacpp")

NEEDS: dict[str, Any] = {
    "tgi": TgiNeeds(memory="1GB", weights=HubWeights(repo="a/b")),  # type: ignore[arg-type]
    "llamacpp": LlamacppNeeds(
        memory="1GB",  # type: ignore[arg-type]
        weights=GgufWeights(repo="a/b", file="c.gguf"),
    ),
}


def spec(engines: str, named: Any = None) -> ModelSpec:
    needs = {name: NEEDS[name] for name in engines.split()}
    return ModelSpec(id="tiny", hf_name="tiny", context_length=128, engine=named, sections=needs)


BOTH, TGI, LLAMACPP = spec("tgi llamacpp"), spec("tgi"), spec("llamacpp")
SAYS_TGI, SAYS_LLAMACPP = spec("tgi llamacpp", "tgi"), spec("tgi llamacpp", "llamacpp")


@pytest.mark.parametrize(
    ("entry", "auto", "tgi", "llamacpp"),
    [
        pytest.param(BOTH, DOCKER_TGI, DOCKER_TGI, DOCKER_LLAMACPP, id="has both"),
        pytest.param(TGI, DOCKER_TGI, DOCKER_TGI, DOCKER_TGI, id="has tgi"),
        pytest.param(SAYS_TGI, DOCKER_TGI, DOCKER_TGI, DOCKER_TGI, id="names tgi"),
        pytest.param(
            SAYS_LLAMACPP, DOCKER_LLAMACPP, DOCKER_LLAMACPP, DOCKER_LLAMACPP, id="names llamacpp"
        ),
    ],
)
@pytest.mark.parametrize("runtime", ["auto", "docker"])
def test_in_docker_the_entry_decides_then_the_setting_then_tgi(
    runtime: RuntimeSetting,
    entry: ModelSpec,
    auto: tuple[str, str],
    tgi: tuple[str, str],
    llamacpp: tuple[str, str],
) -> None:
    assert place(entry, runtime, "auto", True) == auto
    assert place(entry, runtime, "tgi", True) == tgi
    assert place(entry, runtime, "llamacpp", True) == llamacpp


def test_auto_runs_a_model_of_llamacpp_alone_as_a_process() -> None:
    assert place(LLAMACPP, "auto", "auto", True) == PROCESS_LLAMACPP
    assert place(LLAMACPP, "docker", "auto", True) == DOCKER_LLAMACPP


@pytest.mark.parametrize("engine", ["tgi", "llamacpp"])
def test_the_setting_of_the_engine_does_not_move_a_model_of_one_engine(
    engine: str,
) -> None:
    assert place(LLAMACPP, "docker", engine, True) == DOCKER_LLAMACPP
    assert place(LLAMACPP, "auto", engine, True) == PROCESS_LLAMACPP


@pytest.mark.parametrize(
    ("runtime", "docker_answers"), [("process", False), ("process", True), ("auto", False)]
)
@pytest.mark.parametrize("engine", ["auto", "tgi", "llamacpp"])
@pytest.mark.parametrize(
    ("entry", "placed"),
    [
        pytest.param(BOTH, PROCESS_LLAMACPP, id="has both"),
        pytest.param(LLAMACPP, PROCESS_LLAMACPP, id="has llamacpp"),
        pytest.param(SAYS_TGI, PROCESS_TGI, id="names tgi, which a process refuses at the start"),
        pytest.param(SAYS_LLAMACPP, PROCESS_LLAMACPP, id="names llamacpp"),
        pytest.param(TGI, PROCESS_TGI, id="has tgi, which a process refuses at the start"),
    ],
)
def test_a_process_is_llamacpp_wherever_the_entry_has_it(
    runtime: RuntimeSetting,
    docker_answers: bool,
    engine: str,
    entry: ModelSpec,
    placed: tuple[str, str],
) -> None:
    assert place(entry, runtime, engine, docker_answers) == placed
