"""What the composition root puts together, and what it leaves out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

_HOLDS = """\
import asyncio, json, sys
from inference_service.server import running
from inference_service.settings import Settings

async def main():
    async with running(Settings(grpc_port=0, rest_port=0, rest=sys.argv[1] == "rest")) as service:
        print(json.dumps([service.choice.name, *sys.modules]))

asyncio.run(main())
"""


@pytest.mark.parametrize("face", ["grpc", "rest"])
def test_memory_is_not_taken_for_what_is_not_used(tmp_path: Path, face: str) -> None:
    nowhere = {"DOCKER_HOST": f"unix://{tmp_path}/none", "INFERENCE_STATE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", _HOLDS, face]
    done = subprocess.run(command, env=os.environ | nowhere, stdout=subprocess.PIPE, check=True)
    runtime, *held = json.loads(done.stdout)

    assert runtime == "process"
    assert ("fastapi" in held, "uvicorn" in held) == (face == "rest", face == "rest")
    assert not {"docker", "requests", "huggingface_hub", "xllamacpp", "numpy"} & {*held}
