"""The writer of a stream, and what a client's retry policy makes of its headers."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from inference_service.api.calls import Calls
from inference_service.api.health import Health
from inference_service.api.listener import serving, services
from inference_service.errors import StartFailed
from inference_service.v1 import model_service_pb2 as pb
from inference_service.v1 import model_service_pb2_grpc as pb_grpc
from tests.api.test_servicer import Bed, made
from tests.service import failure
from tests.waiting import SLOWLY, within

ATTEMPTS = 4
POLICY = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": ATTEMPTS,
                "initialBackoff": "0.01s",
                "maxBackoff": "0.01s",
                "backoffMultiplier": 1,
                "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
            },
        }
    ]
}
PROMPT: dict[str, Any] = {"model_id": "tiny", "prompt": "once", "max_new_tokens": 2}
Call = Callable[[Any], Awaitable[object]]


async def read(call: Any) -> list[Any]:
    return [message async for message in call]


CALLS: dict[str, Call] = {
    "Generate": lambda stub: stub.Generate(pb.GenerateRequest(**PROMPT)),
    "GenerateStream": lambda stub: read(stub.GenerateStream(pb.GenerateStreamRequest(**PROMPT))),
    "Forward": lambda stub: read(stub.Forward(pb.ForwardRequest(model_id="tiny", path="/words"))),
}
every_call = pytest.mark.parametrize("name", CALLS)


class Counting(Calls):
    """The open calls, which also counts all that came."""

    count = 0

    def enter(self, context: Any) -> None:
        self.count += 1
        super().enter(context)


@dataclass
class Wired:
    """A bed behind a wire, and a stub whose channel has the policy."""

    bed: Bed
    calls: Counting
    stub: Any


@asynccontextmanager
async def wired() -> AsyncGenerator[Wired]:
    options = [("grpc.service_config", json.dumps(POLICY))]
    calls = Counting()
    async with made() as bed:
        methods = services(bed.service, Health())
        async with (
            serving("127.0.0.1", 0, methods, calls, 1 << 20) as port,
            grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel,
            within(SLOWLY, "the call did not end"),
        ):
            yield Wired(bed, calls, pb_grpc.ModelServiceStub(channel))


async def failed(call: Awaitable[object]) -> str:
    """Return the reason with which a call fails."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return failure(error.value).reason


@every_call
async def test_a_start_that_fails_once_is_mended_by_the_policy_of_the_client(name: str) -> None:
    async with wired() as wire:
        wire.bed.runtime.refusal = StartFailed("tiny", "creating container", "no disk")
        await CALLS[name](wire.stub)

        assert wire.calls.count == 2


@every_call
async def test_the_shutdown_is_tried_again(name: str) -> None:
    async with wired() as wire:
        await wire.bed.models.close(0)

        assert await failed(CALLS[name](wire.stub)) == "SHUTTING_DOWN"
        assert wire.calls.count == ATTEMPTS


async def test_a_status_event_commits_a_stream() -> None:
    async with wired() as wire:
        wire.bed.runtime.refusal = StartFailed("tiny", "creating container", "no disk")
        request = pb.GenerateStreamRequest(**PROMPT, status_events=True)

        assert await failed(read(wire.stub.GenerateStream(request))) == "START_FAILED"
        assert wire.calls.count == 1
