"""Another program at an engine's port: nobody asks it, and nobody else can ask the engine.

Between the look for a free port and the engine's bind, another user of the machine can take the
port (Ollama, llama-swap and vLLM dial what answers there). Web pages can send blind requests to any
port of the machine.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import grpc
import httpx2
import pytest

from inference_service.runtimes.ports import Ports
from inference_service.v1 import model_service_pb2 as pb
from tests.service import Serving, serving

PROGRAM = Path(__file__).with_name("keyed_program.py")


class Blind(Ports):
    """Ports that take each port for free, as one that another program takes a moment later."""

    def _free(self, port: int) -> bool:
        return port not in self._claimed


class Squatter:
    """A listener that counts who connects to it."""

    def __init__(self, server: socket.socket) -> None:
        self.server = server
        self.port = server.getsockname()[1]

    @property
    def visited(self) -> bool:
        """Whether anybody has connected."""
        self.server.setblocking(False)
        try:
            self.server.accept()
        except BlockingIOError:
            return False
        return True


@contextmanager
def squatter() -> Generator[Squatter]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield Squatter(server)


def catalog(folder: Path, *words: str, key_env: str = "") -> Path:
    path = folder / "catalog.toml"
    command = [sys.executable, str(PROGRAM), *words, "{port}"]
    keyed = f"key_env = {key_env!r}" if key_env else ""
    path.write_text(f"""
[[models]]
id = "mine"
hf_name = "mine/mine"
context_length = 512
[models.openai]
command = {command!r}
memory = "64MiB"
{keyed}
""")
    return path


async def generate(it: Serving, model: str) -> str:
    request = pb.GenerateRequest(model_id=model, prompt="Once", max_new_tokens=5)
    request.return_full_text = False
    return (await it.stub.Generate(request, timeout=60)).generated_text


def port_of(it: Serving, model: str) -> int:
    view = it.service.models.find(model).view()
    return int(view.instances[0].url.rpartition(":")[2])


async def test_the_embedded_worker_takes_another_port() -> None:
    with squatter() as taken:
        async with serving(Blind(taken.port, min(65535, taken.port + 20))) as it:
            assert await generate(it, "story-mini")
            assert port_of(it, "story-mini") != taken.port
        assert not taken.visited


async def test_a_program_that_does_not_get_its_port_is_not_asked(tmp_path: Path) -> None:
    with squatter() as taken:
        file = catalog(tmp_path)
        async with serving(Blind(taken.port, taken.port), catalog=file) as it:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await generate(it, "mine")
        assert "START_FAILED" in repr(raised.value.trailing_metadata())
        assert not taken.visited


async def test_a_program_that_waits_for_its_port_is_asked_when_it_has_it(tmp_path: Path) -> None:
    with squatter() as taken:
        file = catalog(tmp_path, "--patient")
        async with serving(Blind(taken.port, taken.port), catalog=file) as it:
            asking = asyncio.create_task(generate(it, "mine"))
            await asyncio.sleep(1)
            assert not taken.visited
            taken.server.close()
            assert await asking == "5 words"


@pytest.mark.parametrize("key_env", ["KEY", "VLLM_API_KEY", "LOGIN"])
async def test_a_program_with_a_key_answers_the_service_alone(
    tmp_path: Path, ports: Ports, key_env: str
) -> None:
    file = catalog(tmp_path, "--key", key_env, key_env=key_env)
    async with serving(ports, catalog=file) as it:
        assert await generate(it, "mine") == "5 words"
        url = f"http://127.0.0.1:{port_of(it, 'mine')}/v1/models"
        async with httpx2.AsyncClient() as client:
            assert (await client.get(url)).status_code == 401
        log = [line async for line in it.service.models.find("mine").logs(50, follow=False)]
        assert "the key is ***" in log


async def test_the_port_of_the_embedded_worker_is_of_no_use_to_others(ports: Ports) -> None:
    async with serving(ports) as it, httpx2.AsyncClient(timeout=30) as client:
        assert await generate(it, "story-mini")
        url = f"http://127.0.0.1:{port_of(it, 'story-mini')}"
        body = b'{"prompt":"a","n_predict":500,"ignore_eos":true}'
        headers = {"content-type": "text/plain", "origin": "http://elsewhere.example"}
        for path in ("/completion", "/v1/completions", "/tokenize", "/infill"):
            answer = await client.post(f"{url}{path}", content=body, headers=headers)
            assert answer.status_code == 401, path
        for path in ("/metrics", "/props", "/v1/models"):
            assert (await client.get(f"{url}{path}")).status_code == 401, path
        assert (await client.get(f"{url}/health")).status_code == 200
