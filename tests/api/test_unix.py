"""gRPC on a unix socket: who may connect, what is there already, and what is left."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import grpc
import pytest

from inference_service.api.addresses import BindError
from inference_service.server import running
from inference_service.settings import Settings
from inference_service.v1 import model_service_pb2 as pb
from inference_service.v1 import model_service_pb2_grpc as pb_grpc
from rest_bridge.app import create_app
from tests.rest_bridge.loopback import open_client, open_remote, serve_http
from tests.service import free_ports, serving


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "inference.sock"


async def models(target: str) -> list[str]:
    async with grpc.aio.insecure_channel(target) as channel:
        return list((await pb_grpc.ModelServiceStub(channel).GetInfo(pb.GetInfoRequest())).models)


@pytest.mark.parametrize("slashes", ["", "//"])
async def test_a_service_listens_on_a_unix_socket_for_its_owner_and_group(
    path: Path, slashes: str
) -> None:
    async with serving(host=f"unix:{slashes}{path}") as service:
        assert service.service.target == f"unix:{path}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert "story-mini" in await models(f"unix:{path}")
        assert (await service.http.get("/models")).status_code == 200

    assert not path.exists()


async def test_a_bridge_of_its_own_asks_at_a_unix_socket(path: Path) -> None:
    async with (
        serving(host=f"unix:{path}", ports=free_ports(4)),
        open_remote(f"unix:{path}") as remote,
        serve_http(create_app(remote)) as url,
        open_client(url) as client,
    ):
        body = {"model_id": "story-mini", "prompt": "Once", "max_new_tokens": 3}
        answer = await client.post("/generate", json=body, timeout=60)

        assert answer.status_code == 200, answer.text


async def test_what_a_killed_service_has_left_is_no_hindrance(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))

    async with serving(host=f"unix:{path}"):
        assert await models(f"unix:{path}")


async def test_a_service_that_listens_keeps_its_socket(path: Path) -> None:
    async with serving(host=f"unix:{path}"):
        with pytest.raises(BindError, match=r"\(another program listens there\); choose another"):
            async with serving(host=f"unix:{path}"):
                pass

        assert await models(f"unix:{path}")


@pytest.mark.parametrize(
    ("host", "cause"),
    [
        ("unix:", "must be absolute"),
        ("unix:/", "must be absolute"),
        ("unix:a.sock", "must be absolute"),
        ("unix:{folder}/none/a.sock", "No such file or directory"),
        ("unix:{folder}/file", "the file is no socket"),
        ("unix:{folder}", "the file is no socket"),
        ("unix:{folder}/" + "é" * 54, "a path may have 107 bytes"),
    ],
)
async def test_a_path_that_cannot_be_listened_on_is_the_fault_of_its_flag(
    tmp_path: Path, host: str, cause: str
) -> None:
    (tmp_path / "file").write_text("kept")
    given = {"host": host.format(folder=tmp_path), "runtime": "process", "rest": False}
    settings = Settings.model_validate(given)
    with pytest.raises(BindError, match=cause) as error:
        async with running(settings):
            pass

    assert "--host" in str(error.value)
    assert (tmp_path / "file").read_text() == "kept"
