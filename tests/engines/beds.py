"""Running engines, with facts that only their programs have."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import os
import signal
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

import aiohttp

from inference_service.catalog import ModelSpec
from inference_service.engines import kinds
from inference_service.engines.base import Chunk, Engine, Finish, Prompt
from inference_service.engines.exchange import Request
from inference_service.engines.llamacpp.engine import Llamacpp
from inference_service.engines.llamacpp.section import LlamacppNeeds
from inference_service.engines.openai.engine import Openai
from inference_service.engines.openai.section import OpenaiNeeds
from inference_service.engines.tgi.engine import Tgi
from inference_service.engines.tgi.section import TgiNeeds
from inference_service.key import Key
from inference_service.runtimes.base import Instance, Running
from inference_service.runtimes.command import Command, Launch, Seat
from inference_service.runtimes.ports import Ports
from inference_service.runtimes.process import ProcessRuntime
from tests.doubles.tgi.process import TgiProcess, started
from tests.engines.waiting import soon
from tests.fakes import FakeEngine, broken, spec
from tests.runtimes import processes

SEAT = Seat("0.0.0.0", 80, in_container=True)  # of a container without a GPU
GPU_SEAT = replace(SEAT, has_gpu=True)


@dataclass(frozen=True)
class Text:
    """A whole text, in the chunks that came."""

    chunks: tuple[Chunk, ...]

    def __str__(self) -> str:
        return "".join(chunk.text for chunk in self.chunks)

    @property
    def finish(self) -> Finish:
        finish = self.chunks[-1].finish
        assert finish is not None
        return finish


def posted(path: str, body: object) -> Request:
    """Return a request with a body of JSON."""
    return Request("POST", path, json.dumps(body).encode(), "application/json")


def _body(answer: bytes) -> bytes:
    """Read the body of an answer with the standard library."""

    class Socket:
        def makefile(self, _: str) -> io.BytesIO:
            return io.BytesIO(answer)

    response = http.client.HTTPResponse(Socket())  # type: ignore[arg-type]
    response.begin()
    return response.read()


class Bed(ABC):
    """One engine that serves `spec` as `instance`, at `url`.

    `opening` is a prompt for a long text. `whole` is the argument of `read` for `generate`.
    `counts` is False for an engine that tells no counts before the end.
    `short` and `long` are requests of the engine's own, of which it streams the long answer.
    """

    engine: Engine
    spec: ModelSpec
    url: str
    opening: str
    short: Request
    long: Request
    whole = False
    counts = True

    @property
    def instance(self) -> Instance:
        command = self.engine.command(self.spec, Seat())
        own = (command.model, command.headers, command.health, command.context)
        return Instance("engine", self.url, 1, *own)

    def generate(self, prompt: Prompt) -> AsyncGenerator[Chunk]:
        """See `Engine.generate`."""
        return self.engine.generate(self.instance, self.spec, prompt)

    async def read(self, prompt: Prompt) -> Text:
        """Return the whole text."""
        chunks = self.engine.generate(self.instance, self.spec, prompt, whole=self.whole)
        async with aclosing(chunks):
            return Text(tuple([chunk async for chunk in chunks]))

    @abstractmethod
    async def count(self, text: str) -> int:
        """Count the tokens of a prompt with the engine's own tokenizer."""

    @abstractmethod
    async def busy(self) -> int:
        """Count the requests that the engine has, with those in its queue."""

    @abstractmethod
    def kill(self) -> None:
        """Kill the engine."""

    @asynccontextmanager
    async def recorded(self) -> AsyncGenerator[tuple[Instance, Callable[[], bytes]]]:
        """Yield an instance to ask, and what returns the body of the answer that was sent.

        The instance is that of a proxy, which keeps the bytes as they come from the socket.
        """
        sent: list[bytes] = []
        port = int(self.url.rpartition(":")[2])

        relays: set[asyncio.Task[None]] = set()

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            down, up = await asyncio.open_connection("127.0.0.1", port)

            async def ask() -> None:
                while data := await reader.read(1 << 16):
                    up.write(data)

            async def answer() -> None:
                while data := await down.read(1 << 16):
                    sent.append(data)
                    writer.write(data)
                writer.close()

            try:
                await asyncio.gather(ask(), answer())
            finally:
                for end in (writer, up):
                    end.close()
                    await end.wait_closed()

        def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            relays.add(asyncio.create_task(relay(reader, writer)))

        server = await asyncio.start_server(begin, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server:
            try:
                yield replace(self.instance, url=url), lambda: _body(b"".join(sent))
            finally:
                for task in relays:
                    task.cancel()
                await asyncio.gather(*relays, return_exceptions=True)


class FakeBed(Bed):
    short, long = Request("GET", "/whole"), Request("POST", "/words")

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = self._fake = engine
        self.spec = spec()
        self.url = "http://fake"
        self.opening = "once upon a time"

    async def count(self, text: str) -> int:
        return len(text.split())

    async def busy(self) -> int:
        return self._fake.open

    def kill(self) -> None:
        self._fake.failure = broken()

    @asynccontextmanager
    async def recorded(self) -> AsyncGenerator[tuple[Instance, Callable[[], bytes]]]:
        before = len(self._fake.sent)
        yield self.instance, lambda: b"".join(self._fake.sent[before:])


class _Served(Bed):
    """An engine that is a process with an HTTP server."""

    def __init__(
        self, engine: Engine, spec: ModelSpec, url: str, pid: int, *, whole: bool = False
    ) -> None:
        self.engine = engine
        self.whole = whole
        self.spec = spec
        self.url = url
        self._pid = pid
        self._headers: Mapping[str, str] = {}

    @property
    def instance(self) -> Instance:
        return replace(super().instance, headers=self._headers)

    def kill(self) -> None:
        os.kill(self._pid, signal.SIGKILL)

    async def _metrics(self) -> dict[str, float]:
        async with aiohttp.request("GET", f"{self.url}/metrics", headers=self._headers) as response:
            lines = (await response.text()).splitlines()
        series = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in series}

    async def _tokenize(self, body: Mapping[str, object]) -> list[object] | dict[str, list[object]]:
        async with aiohttp.request(
            "POST", f"{self.url}/tokenize", json=body, headers=self._headers
        ) as response:
            tokens: list[object] | dict[str, list[object]] = await response.json()
            return tokens


class LlamacppBed(_Served):
    opening = "Once upon a time"

    def __init__(self, engine: Engine, spec: ModelSpec, instance: Instance, pid: int) -> None:
        super().__init__(engine, spec, instance.url, pid)
        self._headers = instance.headers

    short = Request("GET", "/v1/models")
    long = posted("/completion", {"prompt": opening, "n_predict": 400, "stream": True})

    async def count(self, text: str) -> int:
        answer = await self._tokenize({"content": text, "add_special": True})
        assert isinstance(answer, dict)
        return len(answer["tokens"])

    async def busy(self) -> int:
        metrics = await self._metrics()
        return int(metrics["llamacpp:requests_processing"] + metrics["llamacpp:requests_deferred"])


class TgiBed(_Served):
    opening = "Once upon a time [[no_eos]]"
    short = Request("GET", "/info")
    long = posted("/generate_stream", {"inputs": opening, "parameters": {"max_new_tokens": 2000}})

    def __init__(
        self, engine: Engine, spec: ModelSpec, double: TgiProcess, *, whole: bool = False
    ) -> None:
        super().__init__(engine, spec, double.url, double.process.pid, whole=whole)
        self.double = double
        # Looked for before, as that takes longer than a short text.
        # The router first, which ends its answers when a shard dies.
        self._processes = [*double.children("router"), *double.children(), double.process.pid]

    def kill(self) -> None:
        for pid in dict.fromkeys(self._processes):
            os.kill(pid, signal.SIGKILL)

    async def count(self, text: str) -> int:
        return len(await self._tokenize({"inputs": text}))

    async def busy(self) -> int:
        metrics = await self._metrics()
        return int(metrics.get("tgi_queue_size", 0) + metrics.get("tgi_batch_current_size", 0))


@asynccontextmanager
async def fake() -> AsyncGenerator[Bed]:
    """Run the fake engine."""
    engine = FakeEngine()
    yield FakeBed(engine)
    assert engine.open == 0


@asynccontextmanager
async def llamacpp(ports: Ports, **changes: object) -> AsyncGenerator[Bed]:
    """Run a worker with the model of the package; `changes` are fields of its section."""
    entry = kinds.catalog().find("story-mini")
    needs = entry.needs(LlamacppNeeds).model_copy(update=changes)
    entry = entry.model_copy(update={"sections": {"llamacpp": needs}})
    engine = Llamacpp("")
    launch = Launch(Key(entry.id), partial(engine.command, entry))
    async with ProcessRuntime(ports).run(launch) as running:
        await soon(running.listens(), "the worker serves", 60)
        (pid,) = processes.with_variable(f"LLAMACPP_PORT={running.instance.port}")
        yield LlamacppBed(engine, entry, running.instance, pid)
        await engine.aclose()


def worker_of_openai(slots: int = 4) -> ModelSpec:
    """Make an entry of kind `openai` for our own worker, by its command."""
    entry = kinds.catalog().find("story-mini")
    path = entry.needs(LlamacppNeeds).weights.path
    section = {
        "command": [sys.executable, "-P", "-m", "inference_service.worker"],
        "env": {
            "LLAMACPP_HOST": "{host}",
            "LLAMACPP_PORT": "{port}",
            "LLAMACPP_FILE": "{weights}",
            "LLAMACPP_CONTEXT": "{context_length}",
            "LLAMACPP_SLOTS": str(slots),
        },
        "weights": {"path": path},
        "served_name": str(path),
        "memory": "1GB",
        "slots": slots,
        "options": {"top_k": "top_k", "repetition_penalty": "repeat_penalty", "stop": False},
        "body": {"min_p": 0.0, "cache_prompt": False, "timings_per_token": True},
    }
    return entry.model_copy(update={"sections": {"openai": OpenaiNeeds.model_validate(section)}})


@asynccontextmanager
async def openai(ports: Ports, slots: int = 4) -> AsyncGenerator[Bed]:
    """Run our own worker as an engine that nobody knows but as OpenAI's JSON."""
    engine, entry = Openai(), worker_of_openai(slots)
    launch = Launch(Key(entry.id), partial(engine.command, entry))
    async with ProcessRuntime(ports).run(launch) as running:
        await soon(_logged(running, '"serving"'), "the worker serves", 60)
        _guard, pid = sorted(processes.with_variable(f"LLAMACPP_PORT={running.instance.port}"))
        yield LlamacppBed(engine, entry, running.instance, pid)
        await engine.aclose()


def tgi_spec(context_length: int = 2048) -> ModelSpec:
    """Make an entry for TGI, whose double has a model of each name."""
    needs = TgiNeeds.model_validate({"memory": "128MiB", "weights": {"repo": "some/model"}})
    return ModelSpec(
        id=f"tgi-double-{os.getpid()}",
        hf_name="some/model",
        context_length=context_length,
        sections={"tgi": needs},
    )


def double_variables(command: Command) -> dict[str, str]:
    """Return the variables of TGI's double as a process, whose GPU is that of the command."""
    gpu = {"NVIDIA_VISIBLE_DEVICES": "0"} if command.needs.gpu else {}
    # A process has neither the volume nor the address of a container.
    container = ("HF_HOME", "HOSTNAME", "PORT")
    return gpu | {name: text for name, text in command.env.items() if name not in container}


@asynccontextmanager
async def tgi(
    context_length: int = 2048, *, whole: bool = False, gpu: bool = False, **changes: str
) -> AsyncGenerator[TgiBed]:
    """Run TGI's double with the launch of the engine; `changes` are its variables."""
    engine, entry = Tgi(""), tgi_spec(context_length)
    env = double_variables(engine.command(entry, GPU_SEAT if gpu else SEAT))
    async with started(env | {"DOUBLE_TOKENS_PER_SECOND": "0"} | changes) as double:
        yield TgiBed(engine, entry, double, whole=whole)
        await engine.aclose()


async def _logged(running: Running, part: str) -> None:
    async with aclosing(running.logs()) as lines:
        async for line in lines:
            if part in line:
                return
    raise AssertionError(f"it {await running.wait()}: {running.tail(20)}")
