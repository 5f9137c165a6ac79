"""The real vLLM in an image of its own, started by the service through Docker."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from docker import DockerClient

from inference_service.v1 import model_service_pb2 as pb
from tests.docker import building
from tests.docker.building import ROOT
from tests.docker.slim import python_slim
from tests.engines.real.beds import FOLDER
from tests.service import free_ports, serving

pytestmark = [pytest.mark.engines, pytest.mark.docker]

_NUMA = Path("/usr/lib/x86_64-linux-gnu/libnuma.so.1")  # of vLLM's extension
_PACKAGES = next(FOLDER.glob("vllm/lib/python3.*/site-packages"), FOLDER).relative_to(FOLDER)


def vllm(client: DockerClient) -> str:
    """Build an image with all that vLLM needs but its packages, which are mounted: they have 6 GB.

    As in `vllm/vllm-openai`, the arguments are those of `vllm`.
    """
    dockerfile = f"FROM {python_slim(client)}\nCOPY {ROOT} /\n"
    dockerfile += 'ENTRYPOINT ["python", "-m", "vllm.entrypoints.cli.main"]\n'
    scripts = {str(_NUMA)[1:]: _NUMA.read_bytes()}
    return building.packaged(client, "vllm", dockerfile, [], {}, scripts)


def entry(image: str) -> str:
    """Make the TOML of an entry."""
    args = ["serve", "{weights}/story", "--served-model-name", "{served_name}"]
    args += ["--host", "{host}", "--port", "{port}", "--max-model-len", "{context_length}"]
    args += ["--dtype", "float32", "--enforce-eager"]
    return f"""\
[[models]]
id = "mine"
hf_name = "story-mini"
context_length = 512
[models.openai]
image = "{image}"
args = {json.dumps(args)}
weights.path = "{FOLDER.resolve()}"
memory = "6GB"
slots = 32
container = {{ shm_size = "1GiB" }}
options = {{ top_k = "top_k", repetition_penalty = "repetition_penalty" }}
body = {{ stream_options = {{ include_usage = true, continuous_usage_stats = true }} }}
[models.openai.env]
PYTHONPATH = "{{weights}}/{_PACKAGES}"
VLLM_CPU_KVCACHE_SPACE = "1"
VLLM_CPU_OMP_THREADS_BIND = "nobind"
HOME = "/tmp"
"""


async def test_vllm_in_an_image(tmp_path: Path, docker_client: DockerClient) -> None:
    path, name = tmp_path / "catalog.toml", f"vllm-{os.getpid()}"
    path.write_text(entry(vllm(docker_client)))
    settings: dict[str, Any] = {
        "runtime": "docker",
        "service_name": name,
        "volume": name,
        "pull_policy": "never",
        "catalog": path,
        "generation_timeout": 120,
    }
    try:
        async with serving(ports=free_ports(4), **settings) as service:
            prompt = "Once upon a time"
            whole = await service.stub.Generate(
                pb.GenerateRequest(model_id="mine", prompt=prompt, temperature=0, max_new_tokens=20)
            )
            assert whole.generated_text.startswith(f"{prompt}, there was a ")
            assert whole.summary.completion_token_count == 20

            request = pb.GenerateStreamRequest(
                model_id="mine",
                prompt=prompt,
                temperature=0,
                repetition_penalty=0.3,
                max_new_tokens=400,
                resume=True,
            )
            events = aiter(service.stub.GenerateStream(request))
            seen = [await anext(events)]
            docker_client.containers.get(f"{name}-tgi-mine").kill()
            seen += [event async for event in events]
            kinds = [event.WhichOneof("event") for event in seen]
            assert (kinds.count("resumption"), kinds[-1]) == (1, "summary")
            assert sum(event.chunk.token_count for event in seen) == 400
        assert docker_client.containers.list(all=True, filters={"name": name}) == []
    finally:
        docker_client.volumes.get(name).remove()
