"""Many large prompts at once: the service holds a bounded number of characters."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from pathlib import Path

import grpc
import httpx
import pytest

from inference_service.api.prompts import Prompts
from inference_service.v1 import model_service_pb2 as pb
from rest_bridge.proxies import Proxies
from tests.field.test_fair import caller
from tests.service import Serving, failure, free_ports, serving
from tests.waiting import SLOWLY, until, within

# Of an engine that never becomes ready: each request waits.
CATALOG = """
[[models]]
id = "slow"
hf_name = "x"
context_length = 100000
[models.openai]
command = ["sleep", "600"]
env = { PORT = "{port}" }
memory = "100MB"
"""
PROMPT = "x" * 10_000
ROOM = 65_536  # an address gets three such prompts of it, and another one or two


@pytest.fixture
async def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Serving]:
    """Run a service that holds a few prompts."""
    monkeypatch.setattr(Prompts.__init__, "__defaults__", (Proxies(), ROOM))
    (tmp_path / "catalog.toml").write_text(CATALOG)
    async with serving(catalog=tmp_path / "catalog.toml", ports=free_ports(4)) as service:
        yield service


async def post(http: httpx.AsyncClient, prompt: str = PROMPT, path: str = "/generate") -> str:
    """Return the reason of the end."""
    body = {"model_id": "slow", "prompt": prompt, "max_new_tokens": 3}
    answer = await http.post(path, json=body)
    if answer.status_code == 429:
        assert answer.headers["retry-after"] == "1"
    return answer.headers["x-error-reason"]


async def ask(service: Serving) -> str:
    request = pb.GenerateRequest(model_id="slow", prompt=PROMPT, max_new_tokens=3)
    try:
        await service.stub.Generate(request)
    except grpc.aio.AioRpcError as error:
        return failure(error).reason
    return "a text"


async def stop(service: Serving) -> None:
    await service.stub.StopModel(pb.StopModelRequest(model_id="slow"))


async def test_prompts_that_wait_have_a_bound_and_each_address_its_share(small: Serving) -> None:
    async with caller(small, "127.0.0.2") as http:
        greedy = [asyncio.ensure_future(post(http)) for _ in range(6)]
        async with within(SLOWLY, "no request was refused"):
            await until(lambda: sum(task.done() for task in greedy) == 3, "not three were refused")
        other = asyncio.ensure_future(ask(small))
        short = asyncio.ensure_future(post(http, prompt="Hi"))  # short ones are not counted
        await asyncio.sleep(0.2)
        assert not other.done()
        assert not short.done()

        await stop(small)

        assert Counter(await asyncio.gather(*greedy)) == {"TOO_MANY_CALLS": 3, "MODEL_STOPPED": 3}
        assert {await other, await short} == {"MODEL_STOPPED"}


async def held(http: httpx.AsyncClient, path: str) -> asyncio.Task[str]:
    """Send a prompt until it is not refused any more; return the request, which waits."""
    for _ in range(100):
        task = asyncio.create_task(post(http, path=path))
        await asyncio.wait([task], timeout=0.2)
        if not task.done():
            return task
        assert task.result() == "TOO_MANY_CALLS"
    raise AssertionError("each prompt was refused")


@pytest.mark.parametrize("path", ["/generate", "/generate_stream"])
async def test_prompts_that_are_answered_or_left_make_room(small: Serving, path: str) -> None:
    async with caller(small, "127.0.0.2") as http:
        first, second, third = [await held(http, path) for _ in range(3)]
        assert await post(http, path=path) == "TOO_MANY_CALLS"

        for task in (first, second):
            task.cancel()
        await asyncio.wait([first, second])
        others = [await held(http, path) for _ in range(2)]
        await stop(small)
        assert {await task for task in (third, *others)} == {"MODEL_STOPPED"}

        again = [await held(http, path) for _ in range(3)]
        await stop(small)
        assert {await task for task in again} == {"MODEL_STOPPED"}
