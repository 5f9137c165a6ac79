"""The digest on a container, by which the service of the next version knows it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from inference_service.capacity.claims import GpuNeed
from inference_service.runtimes.base import Launch
from inference_service.runtimes.docker.container import digest

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
