"""Placement: the whole table of settings, entries and machines."""

from __future__ import annotations

from typing import Any

import pytest

from inference_service.catalog import ModelSpec
from inference_service.engines import kinds
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
    assert place(entry, runtime, "auto", True)[:2] == auto
    assert place(entry, runtime, "tgi", True)[:2] == tgi
    assert place(entry, runtime, "llamacpp", True)[:2] == llamacpp


def test_auto_runs_a_model_of_llamacpp_alone_as_a_process() -> None:
    assert place(LLAMACPP, "auto", "auto", True)[:2] == PROCESS_LLAMACPP
    assert place(LLAMACPP, "docker", "auto", True)[:2] == DOCKER_LLAMACPP


@pytest.mark.parametrize("engine", ["tgi", "llamacpp"])
def test_the_setting_of_the_engine_does_not_move_a_model_of_one_engine(
    engine: str,
) -> None:
    assert place(LLAMACPP, "docker", engine, True)[:2] == DOCKER_LLAMACPP
    assert place(LLAMACPP, "auto", engine, True)[:2] == PROCESS_LLAMACPP


@pytest.mark.parametrize(
    ("runtime", "docker_answers"), [("process", False), ("process", True), ("auto", False)]
)
@pytest.mark.parametrize("engine", ["auto", "tgi", "llamacpp"])
@pytest.mark.parametrize(
    ("entry", "placed"),
    [
        pytest.param(BOTH, PROCESS_LLAMACPP, id="has both"),
        pytest.param(LLAMACPP, PROCESS_LLAMACPP, id="has llamacpp"),
        pytest.param(SAYS_TGI, PROCESS_LLAMACPP, id="names tgi"),
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
    assert place(entry, runtime, engine, docker_answers)[:2] == placed


def big() -> ModelSpec:
    """Make an entry that TGI cannot run without a GPU."""
    sections = NEEDS | {"tgi": NEEDS["tgi"].model_copy(update={"gpus": "all"})}
    return BOTH.model_copy(update={"sections": sections})


def test_auto_runs_embedded_what_tgi_cannot_run_without_a_gpu() -> None:
    placed = place(big(), "auto", "auto", True, has_gpu=False)

    assert placed[:2] == PROCESS_LLAMACPP
    assert placed.reason == "tgi needs a GPU for it, which the service does not have"
    assert place(big(), "auto", "auto", True, has_gpu=True)[:2] == DOCKER_TGI
    assert place(BOTH, "auto", "auto", True, has_gpu=False)[:2] == DOCKER_TGI


def test_only_docker_was_asked_for_so_that_no_process_is_taken_instead_of_tgi() -> None:
    assert place(big(), "docker", "auto", True, has_gpu=False)[:2] == DOCKER_LLAMACPP


def test_an_engine_that_somebody_names_is_not_replaced_for_want_of_a_gpu() -> None:
    """Docker then refuses the container, and says that it has no GPU."""
    named = big().model_copy(update={"engine": "tgi"})
    alone = big().model_copy(update={"sections": {"tgi": big().sections["tgi"]}})

    assert place(big(), "auto", "tgi", True, has_gpu=False)[:2] == DOCKER_TGI
    assert place(named, "auto", "auto", True, has_gpu=False)[:2] == DOCKER_TGI
    assert place(alone, "auto", "auto", True, has_gpu=False)[:2] == DOCKER_TGI


@pytest.mark.parametrize(
    ("entry", "engine", "docker_answers", "reason"),
    [
        pytest.param(TGI, "auto", True, "its entry has tgi alone", id="one"),
        pytest.param(SAYS_LLAMACPP, "auto", True, "its entry names llamacpp", id="named"),
        pytest.param(BOTH, "tgi", True, "the setting `engine` is tgi", id="set"),
        pytest.param(BOTH, "auto", True, "tgi is the first of tgi, llamacpp", id="first"),
        pytest.param(
            BOTH, "auto", False, "tgi needs Docker, which the service does not have", id="no Docker"
        ),
    ],
)
def test_the_reason_is_told(
    entry: ModelSpec, engine: str, docker_answers: bool, reason: str
) -> None:
    assert place(entry, "auto", engine, docker_answers).reason == reason


BIG = {"phi-2", "mistral-7b", "llama-2-7b", "falcon-7b"}


def test_the_built_in_models_are_where_they_can_run_on_a_machine_with_docker_but_no_gpu() -> None:
    placed = {m.id: place(m, "auto", "auto", True, has_gpu=False)[:2] for m in kinds.catalog()}

    assert {id for id, where in placed.items() if where == PROCESS_LLAMACPP} == {
        *BIG,
        "story-mini",
    }
    assert placed["gpt-2"] == placed["tiny-llama"] == DOCKER_TGI
