"""A whole service that is started before Docker."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from inference_service.v1 import model_service_pb2 as pb
from tests.docker import images
from tests.docker.daemon import Daemon
from tests.docker.needs import require_private_daemon
from tests.service import Serving, engines, free_ports, serving

pytestmark = pytest.mark.docker

NAME = f"later-{os.getpid()}"
STORY = Path(__file__).parents[1] / "inference_service" / "story_mini" / "story-mini.gguf"

# `both` prefers Docker, and `image` needs it.
CATALOG = f"""
[[models]]
id = "both"
hf_name = "org/both"
context_length = 512
[models.tgi]
memory = "256MiB"
weights = {{ repo = "org/both" }}
[models.llamacpp]
memory = "256MiB"
weights = {{ path = "{STORY}" }}

[[models]]
id = "image"
hf_name = "org/image"
context_length = 512
[models.tgi]
memory = "256MiB"
weights = {{ repo = "org/image" }}
"""


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    require_private_daemon()
    with Daemon() as daemon:
        yield daemon


async def model(service: Serving, model_id: str) -> pb.Model:
    return (await service.stub.GetModel(pb.GetModelRequest(model_id=model_id))).model


async def text(service: Serving, model_id: str) -> int:
    body = {"model_id": model_id, "prompt": "Once upon a time"}
    return (await service.http.post("/generate", json=body)).status_code


async def test_docker_that_starts_later_gets_the_next_starts(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    double = images.tgi_double(daemon.client)
    daemon.stop()
    monkeypatch.setenv("DOCKER_HOST", daemon.url)
    (tmp_path / "catalog.toml").write_text(CATALOG)
    async with serving(
        runtime="auto",
        catalog=tmp_path / "catalog.toml",
        state_dir=tmp_path,
        service_name=NAME,
        volume=NAME,
        tgi_image=double,
        ports=free_ports(8),
    ) as service:
        assert await text(service, "both") == 200
        refused = await service.http.post("/models/image/start")
        assert refused.headers["x-error-reason"] == "MODEL_UNUSABLE"
        (embedded,) = engines()
        info = await service.stub.GetInfo(pb.GetInfoRequest())
        assert (info.runtime, "each 30 s" in info.runtime_choice) == ("process", True)

        daemon.start()
        assert await text(service, "image") == 200
        assert (await model(service, "image")).runtime == "docker"
        info = await service.stub.GetInfo(pb.GetInfoRequest())
        assert info.runtime == "docker"
        assert info.runtime_choice.startswith("a Docker daemon answers since 20")

        assert await text(service, "both") == 200
        assert (await model(service, "both")).runtime == "process"
        assert engines() == [embedded]
        assert (await service.http.post("/models/both/stop")).status_code == 200
        assert await text(service, "both") == 200
        both = await model(service, "both")
        assert (both.runtime, both.engine) == ("docker", "tgi")
        names = {container.name for container in daemon.client.containers.list(all=True)}
        assert names == {f"{NAME}-CLAIM", f"{NAME}-tgi-both", f"{NAME}-tgi-image"}

    assert daemon.client.containers.list(all=True) == []
    daemon.client.volumes.get(NAME).remove()
