"""Starts, stops, reloads, calls and signals, all at random and at once."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import grpc
import httpx
import pytest

from inference_service.v1 import model_service_pb2 as pb
from inference_service.v1 import model_service_pb2_grpc as pb_grpc
from tests.attack.conftest import Attacked
from tests.attack.target import ATTACKED, OTHER, Target
from tests.attack.test_messages import unexplained
from tests.chaos.callers import ALL, TEXT, Caller

pytestmark = pytest.mark.attack

# What an engine that is stopped, or killed again and again, gives to those who call it.
FITTING = {
    TEXT, "MODEL_STOPPED", "ENGINE_DIED", "ENGINE_FAILED", "START_FAILED", "START_BACKING_OFF",
}  # fmt: skip


async def test_calls_that_race(attack: Attacked) -> None:
    await attack("racing calls", _race, workers=6)


async def test_calls_that_race_with_signals(attack: Attacked) -> None:
    await attack("racing calls and signals", _race_with_signals, workers=6, allowed=FITTING)


async def _race_with_signals(target: Target, dice: random.Random) -> None:
    await _race(target, dice)
    if dice.random() < 0.3:
        await _signal(target, dice)


async def _signal(target: Target, dice: random.Random) -> None:
    """Reload the catalog; or stop, resume or kill an engine."""
    target.row.tried["signal"] += 1
    if dice.random() < 0.3:
        target.command.process.send_signal(signal.SIGHUP)
        return
    children = target.children()
    if not children:
        return
    child = dice.choice(children)
    with suppress(ProcessLookupError):
        if dice.random() < 0.5:
            os.kill(child, signal.SIGKILL)
        else:
            os.kill(child, signal.SIGSTOP)
            await asyncio.sleep(dice.random())
            os.kill(child, signal.SIGCONT)


async def _race(target: Target, dice: random.Random) -> None:
    """Do a few things at once, some of which break off."""
    async with (
        grpc.aio.insecure_channel(target.command.target) as channel,
        httpx.AsyncClient(base_url=target.command.url, timeout=60, trust_env=False) as http,
    ):
        stub: pb_grpc.ModelServiceAsyncStub = pb_grpc.ModelServiceStub(channel)
        todo = [dice.choice(_TODO)(target, dice, stub, http) for _ in range(dice.randrange(1, 6))]
        await asyncio.gather(*todo)


async def _text(
    target: Target,
    dice: random.Random,
    stub: pb_grpc.ModelServiceAsyncStub,
    http: httpx.AsyncClient,
) -> None:
    target.row.tried["text"] += 1
    body = {"model_id": ATTACKED, "prompt": "Once", "max_new_tokens": dice.choice([1, 20, 200])}
    caller = Caller(dice.choice(ALL), stub, http, body)
    if dice.random() < 0.4:
        await asyncio.wait([caller.task], timeout=dice.choice([0, 0.02, 0.2]))
        await caller.vanish()
    else:
        await caller.task
        if len(caller.answers) != 1:
            target.found(f"a call had the answers {caller.answers}")
    for answer in caller.answers:
        if answer not in FITTING:
            target.found(f"{answer}: {caller.message}")


async def _start(
    target: Target, dice: random.Random, stub: pb_grpc.ModelServiceAsyncStub, _: httpx.AsyncClient
) -> None:
    await _fits(target, dice, stub.StartModel, pb.StartModelRequest(model_id=ATTACKED))


async def _stop(
    target: Target, dice: random.Random, stub: pb_grpc.ModelServiceAsyncStub, _: httpx.AsyncClient
) -> None:
    request = pb.StopModelRequest(model_id=ATTACKED)
    request.drain_timeout.FromMilliseconds(dice.choice([0, 100, 1000]))
    await _fits(target, dice, stub.StopModel, request)


async def _reload(
    target: Target, dice: random.Random, stub: pb_grpc.ModelServiceAsyncStub, _: httpx.AsyncClient
) -> None:
    await _fits(target, dice, stub.ReloadCatalog, pb.ReloadCatalogRequest())


async def _look(
    target: Target,
    dice: random.Random,
    stub: pb_grpc.ModelServiceAsyncStub,
    http: httpx.AsyncClient,
) -> None:
    target.row.tried["look"] += 1
    model_id = dice.choice([ATTACKED, OTHER])
    path = dice.choice(["/models", f"/models/{model_id}", "/readyz", f"/models/{model_id}/logs"])
    answer = await http.get(path)
    if answer.status_code not in (200, 409, 503):
        target.found(f"{path}: {answer.status_code} {answer.text[:200]}")


_TODO: list[Callable[..., Awaitable[None]]] = [_text, _text, _text, _start, _stop, _reload, _look]


async def _fits(
    target: Target,
    dice: random.Random,
    method: Callable[..., Any],
    request: object,
) -> None:
    target.row.tried[type(request).__name__] += 1
    call = method(request)
    if dice.random() < 0.3:
        await asyncio.sleep(dice.choice([0, 0.005, 0.1]))
        call.cancel()
    try:
        await call
    except asyncio.CancelledError:
        if not call.cancelled():
            raise
    except grpc.aio.AioRpcError as error:
        if fault := unexplained(error):
            target.found(f"{type(request).__name__}: {fault}")
