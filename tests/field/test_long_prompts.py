"""Prompts that are much longer than the context, of callers who do not wait for the answer."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import grpc

from inference_service.v1 import model_service_pb2 as pb
from tests.service import PROMPT, Serving, engines, failure, free_ports, serving
from tests.waiting import SLOWLY, within

LONG = "Once upon a time " * 240_000  # almost 4 MiB
MIB = 2**20


def peak(pid: int) -> int:
    """Return the most memory that a process has had, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


async def leave(service: Serving) -> None:
    """Send a long prompt, and leave after 0.3 seconds."""
    request = pb.GenerateRequest(model_id="story-mini", prompt=LONG, max_new_tokens=1)
    with contextlib.suppress(grpc.RpcError):
        await service.stub.Generate(request, timeout=0.3)


async def test_prompts_that_are_left_cost_the_engine_nothing() -> None:
    async with serving(ports=free_ports(4)) as service, within(SLOWLY, "sixty callers took"):
        short = pb.GenerateRequest(model_id="story-mini", prompt=PROMPT, max_new_tokens=1)
        await service.stub.Generate(short)
        (engine,) = engines()
        before = peak(engine)

        for _ in range(15):
            await asyncio.gather(*(leave(service) for _ in range(4)))

        assert (await service.stub.Generate(short)).generated_text
        assert peak(engine) - before < 32 * MIB


async def test_a_long_prompt_is_refused_with_its_size() -> None:
    async with serving(ports=free_ports(4)) as service:
        answer = await service.http.post(
            "/generate", json={"model_id": "story-mini", "prompt": LONG}
        )
        assert (answer.status_code, answer.headers["x-error-reason"]) == (422, "PROMPT_TOO_LONG")
        assert "it has 4080000 bytes, and 512 tokens have at most 7168" in answer.text
        try:
            await service.stub.Generate(pb.GenerateRequest(model_id="story-mini", prompt=LONG))
        except grpc.RpcError as error:
            assert failure(error).metadata["context_length"] == "512"
