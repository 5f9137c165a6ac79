"""Spoiled requests, half requests, and clients that wait or vanish, on REST."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from rest_bridge.dialects.endpoints import ENDPOINTS
from tests.attack.conftest import Attacked
from tests.attack.target import ATTACKED, ATTACKER, Target
from tests.field.test_large_prompts import CATALOG
from tests.rest_bridge.http.test_fuzz import CASES, spoiled

pytestmark = pytest.mark.attack

_STATUS = re.compile(rb"(?:^|\n)HTTP/1\.1 (\d{3}) ")
# Those of docs/rest.md, and of the server itself, but 500. The engine may be stopped meanwhile.
_DOCUMENTED = {100, 200, 204, 206, 304, 307, 308, 400, 403, 404, 405, 406, 408, 409, 411, 413, 414}
_DOCUMENTED |= {415, 417, 421, 422, 429, 431, 501, 503, 504, 505}


async def test_spoiled_requests(attack: Attacked) -> None:
    await attack("spoiled HTTP/1.1", _spoil, workers=8)


async def _spoil(target: Target, dice: random.Random) -> None:
    texts = [data for data in CASES.values() if len(data) < 1000] + [_post(dice), _post(dice)]
    for _ in range(20):
        data = spoiled(dice, texts)
        data = data.replace(b"/echo", dice.choice(_PATHS)).replace(b"/hello", dice.choice(_PATHS))
        target.row.tried["request"] += 1
        async with _connected(target) as (reader, writer):
            cut = dice.randrange(len(data) + 1)
            for part in (data[:cut], data[cut:]):
                writer.write(part)
                await writer.drain()
            answer = await _read(reader, 0.1)
            _judge(target, data, answer)


_PATHS = [
    b"/generate", b"/generate_stream", b"/models", b"/models/x/start", b"/models/x/stop",
    b"/models/attacked", b"/models/attacked/logs", b"/models:watch", b"/catalog:reload",
    b"/healthz", b"/readyz", b"/docs", b"/redoc", b"/openapi.json",
    b"/static/../../etc/passwd", b"/", b"/v1/models", b"/v1/models/x", b"/api/tags", b"/api/show",
    *ENDPOINTS,
]  # fmt: skip


_OPTIONS = ["\0", "tools", "tool_choice", "response_format", "n", "logprobs", "input", "documents"]


async def test_half_requests(attack: Attacked) -> None:
    await attack("half requests", _stop_half_way, workers=4)


async def _stop_half_way(target: Target, dice: random.Random) -> None:
    """Hold a hundred connections with a part of a request each, then vanish."""
    held = []
    try:
        for _ in range(100):
            target.row.tried["connection"] += 1
            data = _post(dice)
            pair = await _connect(target)
            held.append(pair)
            pair[1].write(data[: dice.randrange(len(data))])
        await asyncio.sleep(dice.random())
    finally:
        for _, writer in held:
            writer.transport.abort()


async def test_readers_that_do_not_read(attack: Attacked) -> None:
    await attack("HTTP/1.1 readers that do not read", _never_read, workers=8, model_id=ATTACKED)


async def _never_read(target: Target, dice: random.Random) -> None:
    body = {"model_id": ATTACKED, "prompt": "Once", "max_new_tokens": 400, "status_events": True}
    async with _connected(target, limit=1) as (_, writer):
        for _ in range(dice.randrange(1, 20)):
            target.row.tried["request"] += 1
            writer.write(_streamed(dice, body))
        with suppress(ConnectionError, TimeoutError):
            await asyncio.wait_for(writer.drain(), 1)
        await asyncio.sleep(dice.choice([0.1, 3]))


def _streamed(dice: random.Random, body: dict[str, Any]) -> bytes:
    """Return a request for a stream, by the service's own route or in a dialect."""
    if dice.random() < 0.5:
        return _request(b"/generate_stream", json.dumps(body).encode())
    return _of_openai(body, stream=True)


def _whole(dice: random.Random, body: dict[str, Any]) -> bytes:
    if dice.random() < 0.5:
        return _request(b"/generate", json.dumps(body).encode())
    return _of_openai(body, stream=False)


def _of_openai(body: dict[str, Any], *, stream: bool) -> bytes:
    asked = {
        "model": body["model_id"],
        "prompt": body["prompt"],
        "max_tokens": body["max_new_tokens"],
        "stream": stream,
    }
    return _request(b"/v1/completions", json.dumps(asked).encode())


async def test_clients_that_vanish(attack: Attacked) -> None:
    await attack("HTTP/1.1 clients that vanish", _vanish, workers=8, model_id=ATTACKED)


async def _vanish(target: Target, dice: random.Random) -> None:
    prompt = "Once" * dice.choice([1, 1, 1, 100_000])
    body = {"model_id": ATTACKED, "prompt": prompt, "max_new_tokens": 300}
    target.row.tried["request"] += 1
    async with _connected(target) as (reader, writer):
        writer.write(_streamed(dice, body) if dice.random() < 0.7 else _whole(dice, body))
        await writer.drain()
        await _read(reader, dice.choice([0, 0.01, 0.1]))


async def test_large_prompts_that_wait(attack: Attacked) -> None:
    wait = _wait_with_large_prompts
    await attack("HTTP/1.1 large prompts that wait", wait, workers=1, more=CATALOG)


async def _wait_with_large_prompts(target: Target, dice: random.Random) -> None:
    """Have 200 prompts of 4 MiB in the queue, then vanish."""
    body = {"model_id": "slow", "prompt": "x" * ((4 << 20) - 100), "max_new_tokens": 300}
    data = _whole(dice, body)
    held = []
    try:
        for _ in range(200):
            target.row.tried["request"] += 1
            held.append(await _connect(target))
            held[-1][1].write(data)
            with suppress(ConnectionError):
                await held[-1][1].drain()
        await asyncio.sleep(1 + dice.random())
    finally:
        for _, writer in held:
            writer.transport.abort()


def _request(path: bytes, body: bytes) -> bytes:
    fields = b"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: %d" % len(body)
    return b"POST %b HTTP/1.1\r\n%b\r\n\r\n%b" % (path, fields, body)


def _post(dice: random.Random) -> bytes:
    if own := dice.random() < 0.5:
        body: dict[str, object] = {"model_id": ATTACKED, "prompt": "Once", "max_new_tokens": 3}
    else:
        messages = [{"role": "user", "content": "Once"}]
        body = {"model": ATTACKED, "prompt": "Once", "messages": messages, "max_tokens": 3}
    wrong: list[object] = [
        None,
        True,
        -1,
        1e308,
        2**70,
        "",
        "x" * 3000,
        [],
        [[[]]],
        {},
        "\ud800",
        "\u2028\r\n",
    ]
    for _ in range(dice.randrange(3)):
        name = dice.choice(
            [*body, "stop", "temperature", "seed", "idle_timeout", "stream", *_OPTIONS]
        )
        body[name] = dice.choice(wrong)
    path = dice.choice([b"/generate", b"/generate_stream"] if own else [*ENDPOINTS])
    return _request(path, json.dumps(body).encode())


def _judge(target: Target, data: bytes, answer: bytes) -> None:
    for status in map(int, _STATUS.findall(answer)):
        if status not in _DOCUMENTED:
            target.found(f"{status} for {data[:300]!r}: {answer[:300]!r}")


async def _read(reader: asyncio.StreamReader, seconds: float) -> bytes:
    """Return what comes in this time."""
    answer = b""
    with suppress(ConnectionError, TimeoutError):
        async with asyncio.timeout(seconds):
            while len(answer) < 1 << 20 and (data := await reader.read(1 << 16)):
                answer += data
    return answer


async def _connect(
    target: Target, limit: int = 1 << 16
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(
        "127.0.0.1", target.rest_port, local_addr=(ATTACKER, 0), limit=limit
    )


@asynccontextmanager
async def _connected(
    target: Target, limit: int = 1 << 16
) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect for the time of the block. A connection that breaks ends the block."""
    reader, writer = await _connect(target, limit)
    try:
        with suppress(ConnectionError):
            yield reader, writer
    finally:
        writer.transport.abort()
