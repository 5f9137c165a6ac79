"""The configuration of a container, and the labels by which the next service knows it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from inference_service.capacity.claims import GpuNeed, GpuShare
from inference_service.catalog import Gpus
from inference_service.runtimes.base import Launch
from inference_service.runtimes.docker.container import Recipe, digest

LAUNCH = Launch(
    model_id="gpt-2",
    image="some/image:1",
    module="some.module",
    env={"MODEL_ID": "gpt2", "A": "b"},
    address_env=("HOST", "PORT"),
    memory_bytes=4 * 10**9,
    cpu_env={"DTYPE": "float32"},
    files={"WEIGHTS": Path("/models/gpt2.gguf")},
    gpus="auto",
    gpu_need=GpuNeed(8 * 10**9, 2),
)
RECIPE = Recipe(service="blue", volume="weights", has_gpu=False)


def test_the_digest_is_that_of_earlier_versions() -> None:
    assert digest(LAUNCH) == "ddcdc83dd5e312cc"
    assert digest(Launch("m", "i", None, {}, ("H", "P"), 1)) == "8c526608309e9cb5"


@pytest.mark.parametrize(
    "changes",
    [
        {"image": "some/image:2"},
        {"env": {"MODEL_ID": "gpt2"}},
        {"cpu_env": {}},
        {"files": {"WEIGHTS": Path("/models/other.gguf")}},
        {"memory_bytes": 4 * 10**9 + 1},
        {"gpus": "all"},
        {"gpu_need": GpuNeed(8 * 10**9, 1)},
        {"gpu_need": GpuNeed(9 * 10**9, 2)},
    ],
    ids=str,
)
def test_a_launch_that_needs_a_new_container_has_another_digest(changes: dict[str, Any]) -> None:
    assert digest(replace(LAUNCH, **changes)) != digest(LAUNCH)


@pytest.mark.parametrize(
    "changes",
    [
        {"module": None},
        {"process_env": {"A": "c"}},
        {"env": {"A": "b", "MODEL_ID": "gpt2"}},
        {"concurrency": 1},
        {"stop_grace": 1.0},
    ],
    ids=str,
)
def test_a_launch_that_can_keep_its_container_has_the_same_digest(changes: dict[str, Any]) -> None:
    assert digest(replace(LAUNCH, **changes)) == digest(LAUNCH)


def test_the_labels_are_those_of_earlier_versions() -> None:
    labels = RECIPE.configuration(LAUNCH, GpuShare(("GPU-b", "GPU-a"), 0.5), 8080)["labels"]

    assert RECIPE.own_label.items() < RECIPE.labels(LAUNCH).items() < labels.items()
    assert labels == {
        "inference-service.service": "blue",
        "inference-service.model": "gpt-2",
        "inference-service.config": "ddcdc83dd5e312cc",
        "inference-service.gpus": "GPU-a,GPU-b",
    }


def test_files_are_mounted_under_the_paths_that_the_environment_names() -> None:
    configuration = RECIPE.configuration(LAUNCH, None, 8080)

    [mount] = configuration["mounts"]
    assert (mount["Source"], mount["Target"]) == ("/models/gpt2.gguf", "/model/gpt2.gguf")
    assert configuration["environment"]["WEIGHTS"] == "/model/gpt2.gguf"


@pytest.mark.parametrize(
    ("gpus", "has_gpu", "given"),
    [
        ("auto", True, True),
        ("auto", False, False),
        ("all", True, True),
        ("all", False, True),
        ("none", True, False),
    ],
)
def test_a_container_gets_gpus_where_the_entry_and_the_daemon_have_them(
    gpus: Gpus, has_gpu: bool, given: bool
) -> None:
    recipe, launch = replace(RECIPE, has_gpu=has_gpu), replace(LAUNCH, gpus=gpus)
    configuration = recipe.configuration(launch, None, 8080)

    assert recipe.gives_gpus(launch) is given
    assert len(configuration["device_requests"]) == given
    assert ("DTYPE" in configuration["environment"]) is not given
