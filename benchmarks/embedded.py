"""The tokens/s of llama.cpp through this service, as a share of those without the service.

gRPC, REST and direct calls ask the same worker, `story-mini` in a subprocess. The worker shares the
cores of the machine with the service and with the callers, which are in this process: the loss is
the CPU time of these two.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import grpc

from benchmarks.command import Command, serving
from benchmarks.figures import Ratio, palindrome, verdict
from inference_service.v1 import model_service_pb2 as pb
from inference_service.v1 import model_service_pb2_grpc as pb_grpc

CALLERS = (1, 8, 32)
GOALS = {"grpc": 0.95, "rest": 0.9}

_ID = "story-mini"
_PROMPT = "Once upon a time"
_TOKENS = 128  # at most, because a story may end earlier

Ask = Callable[[int], Awaitable[int]]  # seed -> tokens of the text


def measure(rounds: int, seconds: float) -> dict[str, Any]:
    """Measure tokens/s of each face for each number of callers, and their ratios to `direct`.

    `control` is `direct` under another name, so its ratio is the noise of the run.
    """
    return asyncio.run(_measure(rounds, seconds))


async def _measure(rounds: int, seconds: float) -> dict[str, Any]:
    with serving("--runtime=process") as command:
        async with asking(command) as faces:
            return {
                f"{callers} callers": await _compared(faces, callers, rounds, seconds)
                for callers in CALLERS
            }


@asynccontextmanager
async def asking(command: Command) -> AsyncGenerator[dict[str, Ask]]:
    """Start the engine, and give a function for each face that asks for a text."""
    async with (
        grpc.aio.insecure_channel(command.target) as channel,
        # llama.cpp's server closes a kept-alive connection at any time.
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True)) as http,
    ):
        faces = _faces(command, pb_grpc.ModelServiceStub(channel), http)
        await faces["grpc"](0)  # starts the engine
        http.headers["authorization"] = f"Bearer {command.engine_key}"
        yield faces


def _faces(
    command: Command, stub: pb_grpc.ModelServiceAsyncStub, http: aiohttp.ClientSession
) -> dict[str, Ask]:
    """Return a function for each face that asks for a text and counts its tokens."""
    common: dict[str, Any] = {"prompt": _PROMPT, "temperature": 1.0, "top_p": 1.0, "top_k": 40}

    async def direct(seed: int) -> int:
        body = {**common, "n_predict": _TOKENS, "min_p": 0.0, "repeat_penalty": 1.0}
        body |= {"seed": seed, "cache_prompt": False, "stream": True}
        last = await _last_event(http, command.engine_port, "/completion", body)
        return int(last["tokens_predicted"])

    async def by_grpc(seed: int) -> int:
        request = pb.GenerateStreamRequest(
            model_id=_ID, max_new_tokens=_TOKENS, seed=seed, repetition_penalty=1.0, **common
        )
        async for message in stub.GenerateStream(request):
            summary = message.summary
        return summary.completion_token_count

    async def rest(seed: int) -> int:
        body = {**common, "model_id": _ID, "max_new_tokens": _TOKENS, "seed": seed}
        body["repetition_penalty"] = 1.0
        last = await _last_event(http, command.rest_port, "/generate_stream", body)
        return int(last["completion_token_count"])

    return {"direct": direct, "grpc": by_grpc, "rest": rest, "control": direct}


async def _last_event(
    http: aiohttp.ClientSession, port: int, path: str, body: dict[str, Any]
) -> dict[str, Any]:
    data = b"{}"
    async with http.post(f"http://127.0.0.1:{port}{path}", json=body) as response:
        assert response.status == 200, await response.text()
        async for line in response.content:
            if line.startswith(b"data: "):
                data = line[6:]
    last: dict[str, Any] = json.loads(data)
    return last


async def _compared(
    faces: dict[str, Ask], callers: int, rounds: int, seconds: float
) -> dict[str, Any]:
    names = list(faces)
    speeds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        order = palindrome(names) if number % 2 else palindrome(names[::-1])
        found: dict[str, list[float]] = {name: [] for name in names}
        for name in order:
            found[name].append(await _speed(faces[name], callers, seconds))
        for name in names:
            speeds[name].append(sum(found[name]) / len(found[name]))
    ratios = {name: Ratio.of(speeds[name], speeds["direct"]) for name in names if name != "direct"}
    noise = ratios["control"].noise
    return {
        "tokens/s": speeds,
        "of direct": {n: [r.lowest, r.middle, r.highest] for n, r in ratios.items()},
        "goal": {n: verdict(ratios[n], g, noise, at_least=True) for n, g in GOALS.items()},
        "noise": noise,
    }


async def _speed(ask: Ask, callers: int, seconds: float) -> float:
    """Measure the tokens/s of so many callers.

    A caller asks for the same texts in each visit.
    """
    began = time.perf_counter()
    ends = began + seconds

    async def call(caller: int) -> int:
        tokens = number = 0
        while time.perf_counter() < ends:
            tokens += await ask(caller * 1000 + number)
            number += 1
        return tokens

    tokens = sum(await asyncio.gather(*map(call, range(callers))))
    return tokens / (time.perf_counter() - began)
