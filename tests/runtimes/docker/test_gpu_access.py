"""How a daemon gives GPUs to containers.

CDI is seen in the JSON of the requests alone: no daemon of the tests has it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker import DockerClient

from inference_service.capacity.claims import GpuShare
from inference_service.capacity.gpus import Gpu
from inference_service.runtimes.docker import gpu_access
from inference_service.runtimes.docker.gpu_access import GpuAccess, find
from inference_service.runtimes.docker.runtime import connect
from inference_service.runtimes.ports import Ports
from tests.docker.daemon import Daemon
from tests.docker.needs import require_private_daemon

TWO = (Gpu("GPU-a", 24, 24), Gpu("GPU-b", 24, 24))
NVIDIA: dict[str, Any] = {"Runtimes": {"runc": {}, "nvidia": {}}}
RUNC: dict[str, Any] = {"Runtimes": {"runc": {}}}
CLIENT = DockerClient(version="1.41")  # which is told, lest it asks a daemon


def cdi(*names: str) -> dict[str, Any]:
    """The devices as Docker 28 lists them in its `info`."""
    return {"DiscoveredDevices": [{"Source": "cdi", "ID": name} for name in names]}


ALL = ("nvidia.com/gpu=0", "nvidia.com/gpu=1", "nvidia.com/gpu=all")
BY_ID = ("nvidia.com/gpu=GPU-a", "nvidia.com/gpu=GPU-b")


def request(info: dict[str, Any], *ids: str, here: bool = True) -> dict[str, Any]:
    """Return the JSON of the request for GPUs by id, or for all."""
    access = find(CLIENT, info, TWO, here=here)
    assert access is not None
    share = GpuShare(ids, 1.0) if ids else None
    return {key: value for key, value in access.request(share).items() if value}


@pytest.mark.parametrize("info", [NVIDIA, NVIDIA | cdi(*ALL)])
def test_with_the_runtime_of_nvidia(info: dict[str, Any]) -> None:
    assert request(info) == {"Count": -1, "Capabilities": [["gpu"]]}
    assert request(info, "GPU-b") == {"DeviceIDs": ["GPU-b"], "Capabilities": [["gpu"]]}


@pytest.mark.parametrize(
    ("listed", "one", "every"),
    [
        (ALL, "nvidia.com/gpu=1", ["nvidia.com/gpu=all"]),
        ((*ALL, *BY_ID), "nvidia.com/gpu=GPU-b", ["nvidia.com/gpu=all"]),
        (BY_ID, "nvidia.com/gpu=GPU-b", [*BY_ID]),
        ((*ALL, "vendor.com/net=0"), "nvidia.com/gpu=1", ["nvidia.com/gpu=all"]),
    ],
)
@pytest.mark.parametrize("here", [True, False])
def test_with_devices_of_cdi(
    listed: tuple[str, ...], one: str, every: list[str], here: bool
) -> None:
    # moby refuses a count or options in such a request (daemon/cdi.go).
    info = RUNC | cdi(*listed)
    assert request(info, "GPU-b", here=here) == {"Driver": "cdi", "DeviceIDs": [one]}
    assert request(info, here=here) == {"Driver": "cdi", "DeviceIDs": every}


def test_gpus_whose_ids_are_their_numbers() -> None:
    access = GpuAccess(cdi=True, devices=frozenset(ALL), order=("0", "1"))
    assert access.request(GpuShare(("1",), 1.0))["DeviceIDs"] == ["nvidia.com/gpu=1"]


@pytest.mark.parametrize("info", [{}, RUNC, RUNC | cdi("vendor.com/net=0"), {"Runtimes": None}])
@pytest.mark.parametrize(("gpus", "here"), [((), True), (TWO, False)])
def test_nothing_is_tried_without_gpus_or_elsewhere(
    info: dict[str, Any], gpus: tuple[Gpu, ...], here: bool
) -> None:
    assert find(CLIENT, info, gpus, here=here) is None


@pytest.mark.parametrize(
    ("refused", "dirs", "found"),
    [
        ([""], [], GpuAccess()),
        (["could not select device driver", ""], ["/etc/cdi"], "cdi"),
        (["could not select device driver", "CDI device injection failed"], ["/etc/cdi"], None),
        (["could not select device driver"], [], None),
    ],
)
def test_what_does_not_say_so_is_tried(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    refused: list[str],
    dirs: list[str],
    found: GpuAccess | str | None,
) -> None:
    asked: list[Any] = []

    def refusal(client: DockerClient, request: Any) -> str:
        asked.append(request["Driver"])
        return refused[len(asked) - 1]

    monkeypatch.setattr(gpu_access, "_refusal", refusal)
    access = find(CLIENT, RUNC | {"CDISpecDirs": dirs}, TWO, here=True)

    assert access == (GpuAccess(cdi=True, order=("GPU-a", "GPU-b")) if found == "cdi" else found)
    assert len(asked) == len(refused)
    if found is None:
        assert "this machine has 2 GPUs, but Docker gives none" in caplog.text
        assert "(could not select device driver)" in caplog.text
    elif found == "cdi":
        assert access is not None
        assert access.request(None)["DeviceIDs"] == ["nvidia.com/gpu=all"]
        assert access.request(GpuShare(("GPU-b",), 1))["DeviceIDs"] == ["nvidia.com/gpu=1"]


@pytest.fixture(params=[True, False], ids=["with a hook", "without one"])
def daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    require_private_daemon()
    with Daemon(nvidia=request.param) as daemon:
        yield daemon


@pytest.mark.docker
def test_a_real_daemon_is_tried_and_keeps_nothing(
    daemon: Daemon, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    access = find(daemon.client, daemon.client.info(), TWO, here=True)

    assert (access is not None) == ("with a hook" in request.node.name)
    assert ("could not select device driver" in caplog.text) == (access is None)
    assert daemon.client.containers.list(all=True) == []
    assert daemon.client.images.list(all=True) == []


@pytest.mark.docker
async def test_engines_get_gpus_where_the_driver_and_a_hook_are(
    daemon: Daemon,
    request: pytest.FixtureRequest,
    ports: Ports,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho GPU-1, 24564\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("DOCKER_HOST", daemon.url)
    runtime = await connect(
        ports, service="s", volume="v", pull_policy="never", memory_bytes=10**9, keys=tmp_path
    )
    try:
        assert runtime.seat.has_gpu == ("with a hook" in request.node.name)
        assert [gpu.id for gpu in runtime.nodes[0].gpus] == ["GPU-1"]
    finally:
        await runtime.aclose()
