"""One caller with many requests, or many names, beside one with a few."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import httpx
import pytest

from inference_service.v1 import model_service_pb2 as pb
from tests.field.hostile import SERVICE, http2
from tests.service import Serving, failure, free_ports, serving
from tests.waiting import SLOWLY, until

LONG: dict[str, Any] = {
    "model_id": "story-mini",
    "prompt": "Once upon a time",
    "max_new_tokens": 100,
}
SHORT: dict[str, Any] = {"model_id": "story-mini", "prompt": "Hi", "max_new_tokens": 1}


@asynccontextmanager
async def caller(service: Serving, address: str) -> AsyncGenerator[httpx.AsyncClient]:
    """Give a client of REST that calls from an address of the loopback."""
    transport = httpx.AsyncHTTPTransport(
        local_address=address, trust_env=False, limits=httpx.Limits(max_connections=2000)
    )
    async with httpx.AsyncClient(
        transport=transport, base_url=str(service.service.rest_url), timeout=SLOWLY
    ) as client:
        yield client


async def queued(service: Serving) -> int:
    answer = await service.stub.GetModel(pb.GetModelRequest(model_id="story-mini"))
    return answer.model.queued_request_count


async def test_who_calls_under_a_new_key_each_time_is_one_caller() -> None:
    async with (
        serving(ports=free_ports(8)) as service,
        caller(service, "127.0.0.2") as many,
        caller(service, "127.0.0.3") as one,
    ):
        await one.post("/generate", json=SHORT)
        numbers = itertools.count()

        async def go_on() -> None:
            while True:
                key = {"authorization": f"Bearer {next(numbers)}"}
                await many.post("/generate", json=LONG, headers=key)

        greedy = [asyncio.create_task(go_on()) for _ in range(200)]
        await asyncio.sleep(1)
        took = []
        for _ in range(10):
            begin = time.monotonic()
            assert (await one.post("/generate", json=SHORT)).status_code == 200
            took.append(time.monotonic() - begin)
        pace = next(numbers) / (1 + sum(took))
        for task in greedy:
            task.cancel()
        await asyncio.wait(greedy)

    # Behind all that wait, each would have taken as long as two hundred of the others do.
    assert sum(took) / 10 < 60 / pace


async def test_a_full_queue_has_room_for_the_next_caller() -> None:
    async with (
        serving(ports=free_ports(8), queue_size=50) as service,
        caller(service, "127.0.0.3") as one,
        http2(service.service.target, source="127.0.0.2") as many,
    ):
        await one.post("/generate", json=SHORT)
        slow = pb.GenerateStreamRequest(**(LONG | {"max_new_tokens": 400}))
        for number in range(200):
            key = ("authorization", f"Bearer {number}")
            many.call(f"{SERVICE}GenerateStream", slow, [key])
        answers = [await one.post("/generate", json=SHORT) for _ in range(20)]
        assert Counter(answer.status_code for answer in answers) == {200: 20}
        refused = {stream for stream, end in many.trailers.items() if end["grpc-status"] == "8"}
        assert len(refused) > 100
        assert {many.reason(stream) for stream in refused} == {"QUEUE_FULL"}


async def test_a_request_that_has_waited_too_long_is_refused() -> None:
    async with serving(ports=free_ports(8), queue_timeout=0.5) as service:
        request = pb.GenerateRequest(**LONG)
        await service.stub.Generate(request)
        long = pb.GenerateRequest(**(LONG | {"max_new_tokens": 480}))
        ends = await asyncio.gather(
            *(service.stub.Generate(long) for _ in range(300)), return_exceptions=True
        )
        refused = [failure(end) for end in ends if isinstance(end, grpc.aio.AioRpcError)]
        assert 0 < len(refused) < 300
        assert {(end.code, end.reason) for end in refused} == {
            (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        }
        assert "has waited 0.5 s for story-mini" in refused[0].message
        assert refused[0].metadata["waited_seconds"] == "0.5"
        assert await queued(service) == 0


@pytest.mark.parametrize("trusted", [[], ["127.0.0.1"]])
async def test_clients_of_a_bridge_of_its_own_are_told_apart(trusted: list[str]) -> None:
    """The bridge names the address beside the key, so that new keys do not help."""
    async with serving(ports=free_ports(8), trusted_proxy=trusted, queue_size=20) as service:
        await service.stub.Generate(pb.GenerateRequest(**SHORT))
        many = pb.GenerateStreamRequest(**(LONG | {"max_new_tokens": 400}))
        async with http2(service.service.target) as bridge:
            for number in range(100):
                bridge.call(
                    f"{SERVICE}GenerateStream",
                    many,
                    [("x-forwarded-for", "10.0.0.1"), ("x-caller", f"key {number}")],
                )
            await until(lambda: len(bridge.trailers) > 50, "the queue was not full")
            for _ in range(5):
                await service.stub.Generate(
                    pb.GenerateRequest(**SHORT),
                    metadata=[("x-forwarded-for", "10.0.0.2"), ("x-caller", "key")],
                )
