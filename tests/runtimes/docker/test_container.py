"""The configuration of a container, and the labels by which the next service knows it."""

from __future__ import annotations

import io
import os
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from inference_service.capacity.claims import GpuNeed, GpuShare
from inference_service.catalog import ContainerOptions
from inference_service.key import Key
from inference_service.runtimes.command import Command, Mount, Needs, Seat
from inference_service.runtimes.docker.container import Recipe, digest, files_archive
from inference_service.runtimes.network import network

NEEDS = Needs(4 * 10**9, GpuNeed(8 * 10**9, 2))
COMMAND = Command(
    model="gpt-2",
    image="some/image:1",
    args=("--fast",),
    env={"MODEL_ID": "gpt2", "A": "b"},
    secrets={"API_KEY": "secret"},
    mounts=(Mount(Path("/models/gpt2.gguf"), "/model/gpt2.gguf"),),
    needs=NEEDS,
    headers={"authorization": "secret"},
    port=80,
)
SEAT = Seat("0.0.0.0", 80, in_container=True)
RECIPE = Recipe(service="blue", volume="weights")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without proxies and certificates, which containers would get."""
    for name in network(os.environ).variables:
        monkeypatch.delenv(name)


def configuration(command: Command = COMMAND, seat: Seat = SEAT, number: int = 1) -> dict[str, Any]:
    return RECIPE.configuration(Key("gpt-2", number), command, command, seat, 8080)


def test_the_digest_is_that_of_earlier_versions() -> None:
    assert digest(COMMAND) == "3-60016530f92bdf06"
    assert digest(Command(model="m", image="i", needs=Needs(1))) == "3-1332969cf6f9c133"


@pytest.mark.parametrize(
    "changes",
    [
        {"image": "some/image:2"},
        {"args": ()},
        {"env": {"MODEL_ID": "gpt2"}},
        {"mounts": (Mount(Path("/models/other.gguf"), "/model/gpt2.gguf"),)},
        {"port": 8000},
        {"needs": replace(NEEDS, memory_bytes=4 * 10**9 + 1)},
        {"needs": replace(NEEDS, gpu=None)},
        {"needs": replace(NEEDS, gpu=GpuNeed(8 * 10**9, 1))},
        {"needs": replace(NEEDS, gpu=GpuNeed(9 * 10**9, 2))},
        {"needs": replace(NEEDS, container=ContainerOptions(ipc="host"))},
        {"needs": replace(NEEDS, container=ContainerOptions(cap_add=("SYS_NICE",)))},
        {"needs": replace(NEEDS, container=ContainerOptions(pids_limit=100))},
        {"writes_weights": False},
    ],
    ids=str,
)
def test_a_command_that_needs_a_new_container_has_another_digest(changes: dict[str, Any]) -> None:
    assert digest(replace(COMMAND, **changes)) != digest(COMMAND)


@pytest.mark.parametrize(
    "changes",
    [
        {"program": ("python",)},
        {"env": {"A": "b", "MODEL_ID": "gpt2"}},
        {"secrets": {"API_KEY": "another"}},
        {"headers": {"authorization": "another"}},
        {"concurrency": 1},
        {"stop_grace": 1.0},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_command_that_can_keep_its_container_has_the_same_digest(changes: dict[str, Any]) -> None:
    assert digest(replace(COMMAND, **changes)) == digest(COMMAND)


def test_the_labels_are_those_of_earlier_versions() -> None:
    seat = replace(SEAT, gpus=GpuShare(("GPU-b", "GPU-a"), 0.5))
    labels = configuration(seat=seat, number=2)["labels"]

    assert RECIPE.own_label.items() < RECIPE.labels(Key("gpt-2", 2)).items() < labels.items()
    assert labels == {
        "inference-service.service": "blue",
        "inference-service.model": "gpt-2",
        "inference-service.run": "2",
        "inference-service.config": "3-60016530f92bdf06",
        "inference-service.seat": '{"port": 80, "gpus": ["GPU-a", "GPU-b"], "fraction": 0.5}',
    }


def test_secrets_are_in_the_environment_alone() -> None:
    made = configuration()

    assert made["environment"] == {"MODEL_ID": "gpt2", "A": "b", "API_KEY": "secret"}
    assert "secret" not in str(made | {"environment": None})
    assert "secret" not in repr(COMMAND)


def test_a_token_is_a_file_where_the_engine_reads_one() -> None:
    variable = replace(COMMAND, hub={"HF_TOKEN": "hf_x", "HF_ENDPOINT": "http://hub"})
    assert configuration(variable)["environment"].items() > variable.hub.items()
    assert files_archive(variable) is None

    file = replace(variable, reads_token_file=True)
    environment = configuration(file)["environment"]
    assert "HF_TOKEN" not in environment
    archive = files_archive(file)
    assert archive is not None
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        (entry,) = files.getmembers()
        assert (f"/{entry.name}", entry.mode) == (environment["HF_TOKEN_PATH"], 0o444)
        read = files.extractfile(entry)
        assert read is not None
        assert read.read() == b"hf_x"

    assert files_archive(replace(file, hub={})) is None
    assert "HF_TOKEN_PATH" not in configuration(replace(file, hub={}))["environment"]


def test_a_container_gets_the_proxies_and_the_certificates(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "ca.pem").write_text("CA")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@proxy:3128")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    own = {**COMMAND.env, "HF_HUB_OFFLINE": "0"}  # of the entry, which wins
    made = configuration(replace(COMMAND, env=own))

    assert (
        made["environment"].items()
        >= {
            "HTTPS_PROXY": "http://me:secret@proxy:3128",
            "SSL_CERT_FILE": "/run/inference-service/SSL_CERT_FILE.pem",
            "HF_HUB_OFFLINE": "0",
        }.items()
    )
    assert made["use_config_proxy"] is False
    archive = files_archive(COMMAND)
    assert archive is not None
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        (entry,) = files.getmembers()
        read = files.extractfile(entry)
        assert read is not None
        assert (f"/{entry.name}", read.read()) == (made["environment"]["SSL_CERT_FILE"], b"CA")
    assert made["labels"] == configuration()["labels"] | {
        "inference-service.config": digest(replace(COMMAND, env=own))
    }  # another proxy restarts no engine


def test_the_proxies_of_the_docker_client_count_where_the_service_has_none() -> None:
    assert configuration()["use_config_proxy"] is True
    own = replace(COMMAND, env={"https_proxy": "http://own"})
    assert configuration(own)["use_config_proxy"] is False


def test_files_are_mounted_to_read_only() -> None:
    [mount] = configuration()["mounts"]
    assert (mount["Source"], mount["Target"]) == ("/models/gpt2.gguf", "/model/gpt2.gguf")
    assert mount["ReadOnly"]


def test_a_container_gets_gpus_where_its_engine_needs_them() -> None:
    assert len(configuration()["device_requests"]) == 1
    without = replace(COMMAND, needs=replace(NEEDS, gpu=None))
    assert configuration(without)["device_requests"] == []


def test_the_options_of_the_entry() -> None:
    options = ContainerOptions(
        shm_size="4GiB",  # type: ignore[arg-type]
        devices=("/dev/kfd",),
        groups=("video",),
        ipc="host",
        ulimits={"memlock": -1},
        seccomp="unconfined",
    )
    made = configuration(replace(COMMAND, needs=replace(NEEDS, container=options)))

    assert made["shm_size"] == 4 * 2**30
    assert made["devices"] == ["/dev/kfd:/dev/kfd"]
    assert made["group_add"] == ["video"]
    assert made["ipc_mode"] == "host"
    assert made["security_opt"] == ["no-new-privileges", "seccomp=unconfined"]
    core, ulimit = made["ulimits"]
    assert (core["Name"], core["Soft"], core["Hard"]) == ("core", 0, 0)
    assert (ulimit["Name"], ulimit["Soft"], ulimit["Hard"]) == ("memlock", -1, -1)
