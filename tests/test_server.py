"""The composition: the modules that a service loads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from inference_service.v1 import model_service_pb2 as pb
from tests.service import serving

_MODULES = """\
import asyncio, json, sys
from inference_service.server import running
from inference_service.settings import Settings

async def main():
    async with running(Settings(grpc_port=0, rest_port=0, rest=sys.argv[1] == "rest")) as service:
        print(json.dumps([service.choice.name, *sys.modules]))

asyncio.run(main())
"""


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_a_service_loads_no_library_that_it_does_not_use(tmp_path: Path, protocol: str) -> None:
    nowhere = {"DOCKER_HOST": f"unix://{tmp_path}/none", "INFERENCE_STATE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", _MODULES, protocol]
    done = subprocess.run(command, env=os.environ | nowhere, stdout=subprocess.PIPE, check=True)
    runtime, *loaded = json.loads(done.stdout)

    assert runtime == "process"
    rest = ("fastapi" in loaded, "rest_bridge.http.server" in loaded)
    assert rest == (protocol == "rest", protocol == "rest")
    assert "uvicorn" not in loaded
    assert not {"docker", "requests", "huggingface_hub", "xllamacpp", "numpy"} & {*loaded}


@pytest.mark.parametrize("engine", ["tgi", "llamacpp", "auto"])
async def test_without_docker_the_reason_says_that_the_engine_of_the_settings_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none")
    async with serving(runtime="auto", engine=engine, state_dir=tmp_path) as service:
        info = await service.stub.GetInfo(pb.GetInfoRequest())

    left_out = "; tgi runs in Docker alone, so other engines run what they can"
    assert info.runtime == "process"
    assert info.runtime_choice.endswith(left_out) == (engine == "tgi")
