"""The writer of a stream, and what a client's retry policy makes of its headers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from inference_service.api.calls import Calls
from inference_service.api.health import Health
from inference_service.api.listener import Pings, services, serving
from inference_service.api.reflection import Reflection
from inference_service.api.statuses import rule
from inference_service.errors import ServiceError, StartFailed
from inference_service.lifecycle import Phase
from inference_service.v1 import model_service_pb2 as pb
from inference_service.v1 import model_service_pb2_grpc as pb_grpc
from tests.api.test_servicer import Bed, made
from tests.service import failure
from tests.test_errors import EXAMPLES
from tests.waiting import SLOWLY, until, within

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
                "retryableStatusCodes": [*(code.name for code in grpc.StatusCode if code.value[0])],
            },
        }
    ]
}
PROMPT: dict[str, Any] = {"model_id": "tiny", "prompt": "once", "max_new_tokens": 2}
Call = Callable[..., Awaitable[object]]


async def read(call: Any) -> list[Any]:
    return [message async for message in call]


CALLS: dict[str, Call] = {
    "Generate": lambda stub, **how: stub.Generate(pb.GenerateRequest(**PROMPT), **how),
    "GenerateStream": lambda stub, **how: read(
        stub.GenerateStream(pb.GenerateStreamRequest(**PROMPT), **how)
    ),
    "Forward": lambda stub, **how: read(
        stub.Forward(pb.ForwardRequest(model_id="tiny", path="/words"), **how)
    ),
}
ERRORS = {type(error).__name__: error for error in EXAMPLES.values()}
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
async def wired(back_off: float = 0) -> AsyncGenerator[Wired]:
    options = [("grpc.service_config", json.dumps(POLICY))]
    calls = Counting()
    async with made(back_off) as bed:
        methods = services(bed.service, Health(), Reflection())
        async with (
            serving("127.0.0.1", 0, methods, calls, 1 << 20, Pings(30, 10)) as target,
            grpc.aio.insecure_channel(target, options=options) as channel,
            within(SLOWLY, "the call did not end"),
        ):
            yield Wired(bed, calls, pb_grpc.ModelServiceStub(channel))


def soon(error: ServiceError) -> ServiceError:
    """Return a copy of an error, the retry of which makes sense at once."""
    copy: ServiceError = type(error).__new__(type(error))
    vars(copy).update(vars(error))
    copy.retry_after = error.retry_after and 0.01
    return copy


async def failed(call: Awaitable[object]) -> str:
    """Return the reason with which a call fails."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return failure(error.value).reason


@every_call
async def test_a_start_that_fails_once_is_mended_by_the_policy_of_the_client(name: str) -> None:
    async with wired() as wire:
        wire.bed.runtime.refusal = StartFailed("tiny", Phase.CREATING_CONTAINER, "no disk")
        await CALLS[name](wire.stub)

        assert wire.calls.count == 2


@every_call
async def test_the_shutdown_is_tried_again(name: str) -> None:
    async with wired() as wire:
        await wire.bed.models.close(0)

        assert await failed(CALLS[name](wire.stub)) == "SHUTTING_DOWN"
        assert wire.calls.count == ATTEMPTS


@every_call
async def test_the_policy_tries_again_where_a_retry_helps(name: str) -> None:
    """For each reason that a call can have before its first message."""
    tried, expected = {}, {}
    async with wired() as wire:
        await wire.bed.models.find("tiny").start()
        for kind, error in ERRORS.items():
            wire.bed.engine.failure, wire.calls.count = soon(error), 0
            reason = await failed(CALLS[name](wire.stub))
            tried[kind] = (reason, wire.calls.count)
            expected[kind] = (error.reason, ATTEMPTS if rule(error.reason).retry_helps else 1)

    assert tried == expected


async def test_a_policy_that_retries_whatever_the_code_makes_no_attempt_in_vain() -> None:
    async with wired() as wire:
        request = pb.GenerateStreamRequest(model_id="nobody", prompt="once", max_new_tokens=2)

        assert await failed(read(wire.stub.GenerateStream(request))) == "MODEL_NOT_FOUND"
        assert wire.calls.count == 1


@every_call
async def test_the_retry_comes_at_the_time_that_the_service_knows(name: str) -> None:
    async with wired(back_off=0.5) as wire:
        wire.bed.runtime.refusal = StartFailed("tiny", Phase.CREATING_CONTAINER, "no disk")
        begun = time.monotonic()
        await CALLS[name](wire.stub)

        assert wire.calls.count == 2
        assert time.monotonic() - begun >= 0.5


@every_call
async def test_a_retry_after_the_deadline_is_not_waited_for(name: str) -> None:
    async with wired(back_off=60) as wire:
        wire.bed.runtime.refusal = StartFailed("tiny", Phase.CREATING_CONTAINER, "no disk")

        assert await failed(CALLS[name](wire.stub, timeout=30)) == "START_FAILED"
        assert wire.calls.count == 1


@every_call
async def test_a_call_that_is_cancelled_makes_no_further_attempt(name: str) -> None:
    async with wired(back_off=60) as wire:
        wire.bed.runtime.refusal = StartFailed("tiny", Phase.CREATING_CONTAINER, "no disk")
        call = asyncio.ensure_future(CALLS[name](wire.stub))
        await until(lambda: wire.bed.models.find("tiny").status.failure, "the start did not fail")
        call.cancel()

        with pytest.raises(asyncio.CancelledError):
            await call
        assert wire.calls.count == 1


async def test_a_library_tries_only_what_it_keeps() -> None:
    """A request above the buffer of the channel is sent once (pinecone-io/python-sdk#347)."""
    async with wired() as wire:
        await wire.bed.models.close(0)
        request = pb.GenerateRequest(model_id="tiny", prompt="x" * (300 << 10), max_new_tokens=2)

        assert await failed(wire.stub.Generate(request)) == "SHUTTING_DOWN"
        assert wire.calls.count == 1


async def test_a_status_event_commits_a_stream() -> None:
    async with wired() as wire:
        wire.bed.runtime.refusal = StartFailed("tiny", Phase.CREATING_CONTAINER, "no disk")
        request = pb.GenerateStreamRequest(**PROMPT, status_events=True)

        assert await failed(read(wire.stub.GenerateStream(request))) == "START_FAILED"
        assert wire.calls.count == 1
