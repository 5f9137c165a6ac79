"""A caller who does nothing wrong, while others attack."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter

import grpc
import httpx

from inference_service.v1 import model_service_pb2_grpc as pb_grpc
from tests.attack.report import Row
from tests.chaos.callers import ALL, TEXT, Caller

_PAUSE = 0.05  # seconds


async def call_on(row: Row, target: str, url: str, model_id: str, allowed: set[str]) -> None:
    """Ask for short texts, one after the other and by all kinds of calls, until cancelled.

    Each call has to end with a text, or with a reason of `allowed`.
    """
    body = {"model_id": model_id, "prompt": "Once upon a time", "max_new_tokens": 3}
    answers: Counter[str] = Counter()
    async with (
        grpc.aio.insecure_channel(target) as channel,
        httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as http,
    ):
        stub: pb_grpc.ModelServiceAsyncStub = pb_grpc.ModelServiceStub(channel)
        for kind in itertools.cycle(ALL):
            begun = time.monotonic()
            caller = Caller(kind, stub, http, body)
            try:
                await caller.task
            finally:
                row.slowest = max(row.slowest, time.monotonic() - begun)
            answer = ", ".join(caller.answers) or "no answer"
            answers[answer] += 1
            row.texts += answer == TEXT
            if answer != TEXT and answer not in allowed:
                row.found[f"the neighbour got {answer}: {caller.message}"] += 1
            await asyncio.sleep(_PAUSE)
