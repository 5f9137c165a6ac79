"""CPU and memory of the service as catalog, watchers, prompts, replies and slow readers grow.

All parts run on `engine.c` with one caller at a time, so a figure belongs to the service alone.
"""

from __future__ import annotations

import asyncio
import json
import socket
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import grpc

from benchmarks import systems
from benchmarks.command import Command, serving
from benchmarks.figures import palindrome
from inference_service.v1 import model_service_pb2 as pb
from inference_service.v1 import model_service_pb2_grpc as pb_grpc

MODELS = (1, 10, 100)
WATCHERS = (10, 100, 1000)
PROMPTS = (100, 10_000, 1_000_000)  # bytes
REPLIES = (1, 100, 10_000, 100_000)  # tokens

_ENTRY = """\
[[models]]
id = "{id}"
hf_name = "bench"
context_length = 1048576
engine = "tgi"
pinned = true
preload = {preload}
[models.tgi]
memory = "64MiB"
weights = {{ repo = "bench" }}
"""
_ID = "bench"
_SECONDS = 1.0  # of calls for one reading, at least

Figures = dict[str, list[float]]  # one for each visit
Ask = Callable[[str, int], Awaitable[int]]  # prompt and tokens -> tokens that came


def measure(slow_seconds: float) -> dict[str, Any]:
    """Measure CPU and latency in microseconds, and memory in MB."""
    with systems.engine() as engine:
        return {
            "slow readers": asyncio.run(_slow(engine.port, slow_seconds)),
            "watchers": asyncio.run(_watchers(engine.port)),
            "models": {count: asyncio.run(_models(engine.port, count)) for count in MODELS},
            "prompt bytes": asyncio.run(_texts(engine.port, [(n, 16) for n in PROMPTS], 0)),
            "reply tokens": asyncio.run(_texts(engine.port, [(16, n) for n in REPLIES], 1)),
        }


class Client:
    """A caller of both faces."""

    def __init__(self, command: Command, channel: grpc.aio.Channel, http: aiohttp.ClientSession):
        self.command = command
        self.stub: pb_grpc.ModelServiceAsyncStub = pb_grpc.ModelServiceStub(channel)
        self._http = http

    async def grpc(self, prompt: str, tokens: int) -> int:
        """Stream a text over gRPC; returns its tokens."""
        request = pb.GenerateStreamRequest(model_id=_ID, prompt=prompt, max_new_tokens=tokens)
        came = 0
        async for message in self.stub.GenerateStream(request):
            came += message.chunk.token_count
        return came

    async def rest(self, prompt: str, tokens: int) -> int:
        """Stream a text over REST; returns its tokens."""
        body = {"model_id": _ID, "prompt": prompt, "max_new_tokens": tokens}
        came = 0
        url = f"http://127.0.0.1:{self.command.rest_port}/generate_stream"
        async with self._http.post(url, json=body) as response:
            async for line in response.content:
                if line.startswith(b'data: {"text"'):
                    came += json.loads(line[6:])["token_count"]
        return came


@asynccontextmanager
async def _client(engine_port: int, models: int = 1) -> AsyncGenerator[Client]:
    with _service(engine_port, models) as command:
        async with (
            grpc.aio.insecure_channel(command.target) as channel,
            aiohttp.ClientSession(read_bufsize=2**20) as http,
        ):
            client = Client(command, channel, http)
            await client.grpc("warm up", 16)
            await client.rest("warm up", 16)
            yield client


@contextmanager
def _service(engine_port: int, models: int) -> Iterator[Command]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "catalog.toml")
        ids = [_ID, *(f"{_ID}-{number}" for number in range(1, models))]
        entries = [_ENTRY.format(id=name, preload=str(name == _ID).lower()) for name in ids]
        path.write_text("".join(entries))
        with serving(f"--catalog={path}", module=f"benchmarks.service {engine_port}") as command:
            yield command


async def _visit(client: Client, ask: Ask, prompt: str, tokens: int) -> tuple[float, float]:
    """Repeat a call; returns its CPU time and its median latency, in microseconds."""
    latencies: list[float] = []
    began = time.perf_counter()
    before = client.command.cpu_seconds()
    while time.perf_counter() - began < _SECONDS or len(latencies) < 3:
        asked = time.perf_counter()
        came = await ask(prompt, tokens)
        latencies.append((time.perf_counter() - asked) * 1e6)
        assert came == tokens, f"{came} of {tokens} tokens came"
    cpu = client.command.cpu_seconds() - before
    return cpu * 1e6 / len(latencies), median(latencies)


async def _figures(client: Client, ask: Ask, prompt: str, tokens: int) -> Figures:
    cpu, latency = await _visit(client, ask, prompt, tokens)
    return {"CPU us": [cpu], "p50 us": [latency]}


async def _texts(engine_port: int, sizes: list[tuple[int, int]], by: int) -> dict[str, Any]:
    """Measure each size twice, in rising and then in falling order, with the memory.

    A size is named by its part `by`: 0 for the prompt, 1 for the reply.
    """
    found: dict[str, Any] = {}
    async with _client(engine_port) as client:
        for size in palindrome(sizes):
            for face, ask in {"grpc": client.grpc, "rest": client.rest}.items():
                figures = await _figures(client, ask, "x" * size[0], size[1])
                figures["RSS MB"] = [client.command.memory.rss_mb]
                kept = found.setdefault(f"{size[by]:,}", {}).setdefault(face, {})
                for name, readings in figures.items():
                    kept.setdefault(name, []).extend(readings)
    return found


async def _models(engine_port: int, count: int) -> dict[str, Any]:
    """Measure the CPU time of a call, the memory, and the time of ListModels."""
    async with _client(engine_port, count) as client:
        listed = []
        for _ in range(20):
            began = time.perf_counter()
            await client.stub.ListModels(pb.ListModelsRequest())
            listed.append((time.perf_counter() - began) * 1e6)
        figures = [await _visit(client, client.grpc, "x", 16) for _ in range(3)]
        return {
            "call CPU us": [cpu for cpu, _ in figures],
            "ListModels us": listed,
            "RSS MB": client.command.memory.rss_mb,
        }


async def _watchers(engine_port: int) -> dict[str, Any]:
    """Measure a call with many WatchModels open, their memory, and a change that reaches all."""
    found = {}
    async with _client(engine_port) as client:
        for count in WATCHERS:
            before = client.command.memory.rss_mb
            async with AsyncExitStack() as stack:
                calls = [client.stub.WatchModels(pb.WatchModelsRequest()) for _ in range(count)]
                for call in calls:
                    stack.callback(call.cancel)
                await asyncio.gather(*map(_snapshot, calls))
                figures = {
                    "MB for each": (client.command.memory.rss_mb - before) / count,
                    "call CPU us": [
                        (await _visit(client, client.grpc, "x", 16))[0] for _ in range(3)
                    ],
                    **await _notified(client, calls),
                }
            found[str(count)] = figures
    return found


async def _snapshot(call: Any) -> None:
    while (await call.read()).WhichOneof("event") != "snapshot_done":
        pass


async def _notified(client: Client, calls: list[Any]) -> dict[str, float]:
    """Stop the model, and measure until every watcher has read the change."""
    before, began = client.command.cpu_seconds(), time.perf_counter()
    await client.stub.StopModel(pb.StopModelRequest(model_id=_ID))
    await asyncio.gather(*map(_stopped, calls))
    took, cpu = time.perf_counter() - began, client.command.cpu_seconds() - before
    await client.stub.StartModel(pb.StartModelRequest(model_id=_ID))
    return {"told CPU us for each": cpu * 1e6 / len(calls), "told all ms": took * 1e3}


async def _stopped(call: Any) -> None:
    while (await call.read()).model.state != pb.MODEL_STATE_STOPPED:
        pass


READERS = 4
_TOKENS = 1_000_000  # more than the buffer of a socket holds, as events and as plain text
_WINDOW = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1 << 14)]


async def _slow(engine_port: int, seconds: float) -> dict[str, Any]:
    """Measure memory before, while and after the buffers towards slow readers fill.

    The readers take a message, or 16 bytes, each second. Once the buffers are full the service has
    nothing to do, as its CPU time shows, and the rest of the texts, 100 MB of events, waits in the
    engine.
    """
    return {
        face: await _slow_face(engine_port, read, seconds)
        for face, read in {"grpc": _slow_grpc, "rest": _slow_rest}.items()
    }


async def _slow_face(
    engine_port: int, read: Callable[[Command], Coroutine[Any, Any, None]], seconds: float
) -> dict[str, Any]:
    async with _client(engine_port) as client:
        await asyncio.gather(*(client.grpc("x", 10_000) for _ in range(READERS)))
        figures = {"MB before": client.command.memory.rss_mb}
        readers = [asyncio.create_task(read(client.command)) for _ in range(READERS)]
        began = time.monotonic()
        filling: list[float] = []
        while await _share(client, readers) > 0.1:
            filling.append(client.command.memory.rss_mb)
            assert len(filling) < 60, (
                "the service still works after a minute, so some buffer has no bound"
            )
        filled = time.monotonic() - began
        held = []
        for _ in range(round(seconds)):
            await asyncio.wait(readers, timeout=1)
            held.append(client.command.memory.rss_mb)
        share = await _share(client, readers)
        assert not any(reader.done() for reader in readers), (
            "a slow reader has ended before its text"
        )
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        return {
            **figures,
            "full after s": filled,
            "MB filling": filling or held,
            "MB full": held,
            "CPU share when full": share,
        }


async def _share(client: Client, readers: Sequence[asyncio.Future[None]]) -> float:
    """Measure the share of a core that the service uses, over a second."""
    before, began = client.command.cpu_seconds(), time.monotonic()
    await asyncio.wait(readers, timeout=1)
    return (client.command.cpu_seconds() - before) / (time.monotonic() - began)


async def _slow_grpc(command: Command) -> None:
    async with grpc.aio.insecure_channel(command.target, options=_WINDOW) as channel:
        stub: pb_grpc.ModelServiceAsyncStub = pb_grpc.ModelServiceStub(channel)
        call = stub.GenerateStream(
            pb.GenerateStreamRequest(model_id=_ID, prompt="x", max_new_tokens=_TOKENS)
        )
        async for _ in call:
            await asyncio.sleep(1)


async def _slow_rest(command: Command) -> None:
    """Read sixteen bytes a second, from a socket with a small buffer."""
    loop = asyncio.get_running_loop()
    body = json.dumps({"model_id": _ID, "prompt": "x", "max_new_tokens": _TOKENS}).encode()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)
        await loop.sock_connect(connection, ("127.0.0.1", command.rest_port))
        head = "POST /generate_stream HTTP/1.1\r\nHost: localhost\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        await loop.sock_sendall(connection, head.encode() + body)
        while await loop.sock_recv(connection, 16):  # noqa: ASYNC110
            await asyncio.sleep(1)
