"""Tests of cold starts: each figure once, and how the figures relate."""

from __future__ import annotations

from pathlib import Path

import pytest
from docker import DockerClient

from benchmarks import cold
from benchmarks.imports import PACKAGES


def test_a_start() -> None:
    times = cold._start(1)

    assert [*times] == ["GetInfo", "GetInfo, CPU", "GET /", "GET /, CPU"]
    assert all(reading > 0 for [reading] in times.values())


def test_an_embedded_model() -> None:
    times = cold._embedded(2)

    assert [*times] == ["cold", "engine alone", "warm"]
    assert all(len(readings) == 2 and min(readings) > 0 for readings in times.values())


@pytest.mark.slow
@pytest.mark.docker
def test_a_model_in_docker(docker_client: DockerClient, tgi_image: str) -> None:
    times = cold._docker(2)

    assert isinstance(times, dict), times
    assert all(len(readings) == 2 and min(readings) > 0 for readings in times.values())
    left = [str(container.name) for container in docker_client.containers.list(all=True)]
    left += [str(volume.name) for volume in docker_client.volumes.list()]
    assert not [name for name in left if cold._NAME in name]


def test_without_docker_the_reason_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none")

    reason = cold._docker(1)

    assert isinstance(reason, str)
    assert reason.startswith("not measured: ")


def test_at_rest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none")

    found = cold._at_rest(0.1)

    assert [*found] == ["service", "service with REST", "bridge"]
    assert found["service"]["rss_mb"] < found["service with REST"]["rss_mb"]
    assert all(0 < figures["pss_mb"] <= figures["rss_mb"] for figures in found.values())
    assert all(figures["cpu_share"] >= 0 for figures in found.values())


def test_what_each_package_adds() -> None:
    added = cold._imports()

    assert [*added] == ["python", *PACKAGES]
    assert added["python"]["Rss"] > 0
    assert sum(figures["Rss"] for figures in added.values()) > 2 * added["python"]["Rss"]
    assert all(figures["seconds"] > 0 for name, figures in added.items() if name != "python")
