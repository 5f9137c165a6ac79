"""The whole service with the daemon that a context of the `docker` command names."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from inference_service.errors import ContextUnusable
from inference_service.v1 import model_service_pb2 as pb
from tests.docker.needs import require_daemon
from tests.service import serving


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the command's files, and no variable that names a daemon."""
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    return tmp_path


@pytest.mark.docker
async def test_auto_is_docker_where_the_context_in_use_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_daemon()
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    make = ["docker", "context", "create", "colima", "--docker", f"host={host}"]
    subprocess.run(make, check=True, capture_output=True)  # noqa: ASYNC221
    subprocess.run(["docker", "context", "use", "colima"], check=True, capture_output=True)  # noqa: ASYNC221

    async with serving(runtime="auto", service_name=f"contexts-{os.getpid()}") as service:
        info = await service.stub.GetInfo(pb.GetInfoRequest())

    assert info.runtime == "docker"
    assert f"{host} (context colima)" in info.runtime_choice


async def test_auto_says_which_context_does_not_exist(config: Path) -> None:
    (config / "config.json").write_text('{"currentContext": "gone"}')

    async with serving(runtime="auto") as service:
        info = await service.stub.GetInfo(pb.GetInfoRequest())

    assert info.runtime == "process"
    assert f"context gone, chosen by `currentContext` in {config}" in info.runtime_choice


async def test_a_context_that_does_not_exist_ends_a_service_that_needs_docker(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONTEXT", "lost")

    with pytest.raises(ContextUnusable, match="context lost, chosen by DOCKER_CONTEXT"):
        async with serving(runtime="docker"):
            pass
