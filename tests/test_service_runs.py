"""A model of two runs on a real Docker daemon: containers, deaths, restarts and the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import docker
import grpc
import pytest

from inference_service.v1 import model_service_pb2 as pb
from tests.service import Serving
from tests.test_service_docker import NAME, catalog, client, on_docker
from tests.waiting import SLOWLY, until, within

pytestmark = pytest.mark.docker

__all__ = ["client"]  # the fixture

NAMES = [f"{NAME}-tgi-twin", f"{NAME}-tgi-twin.R2"]
SLOW = 'env = { DOUBLE_TOKENS_PER_SECOND = "20" }'
LONG = "Once upon a time [[no_eos]]"


@asynccontextmanager
async def two(client: docker.DockerClient, folder: Path, **changes: Any) -> AsyncGenerator[Serving]:
    """Run a service that makes two runs of its model `twin`, and wait for both."""
    path = catalog(folder, twin=SLOW)
    async with on_docker(client, catalog=path, count=2, **changes) as service:
        await service.stub.StartModel(pb.StartModelRequest(model_id="twin"))
        await all_ready(service, NAMES)
        yield service


async def instances(service: Serving) -> list[pb.Instance]:
    answer = await service.stub.GetModel(pb.GetModelRequest(model_id="twin"))
    return [*answer.model.instances]


async def all_ready(service: Serving, names: list[str]) -> None:
    """Return when exactly these instances are READY."""
    async with within(SLOWLY, f"{names} did not become READY"):
        while True:
            shown = await instances(service)
            ready = [one.name for one in shown if one.state == pb.MODEL_STATE_READY]
            if ready == names and len(shown) == len(names):
                return
            await asyncio.sleep(0.05)


class Text:
    """A stream that is read to its end, and whether it has begun."""

    def __init__(self, service: Serving, count: int = 40) -> None:
        # A sampled text can end inside a character, whose tokens no chunk has.
        request = pb.GenerateStreamRequest(
            model_id="twin", prompt=LONG, max_new_tokens=count, temperature=0
        )
        self.begun = asyncio.Event()
        self.tokens = 0
        self.task = asyncio.create_task(self._read(service.stub.GenerateStream(request)))

    async def _read(self, call: Any) -> None:
        async for message in call:
            if message.WhichOneof("event") == "chunk":
                self.tokens += message.chunk.token_count
                self.begun.set()


async def test_both_serve_and_the_death_of_one_loses_no_text_of_the_other(
    client: docker.DockerClient, tmp_path: Path
) -> None:
    async with two(client, tmp_path) as service:
        texts = [Text(service), Text(service)]
        async with within(SLOWLY, "not both texts have begun"):
            await asyncio.gather(*(text.begun.wait() for text in texts))
        shown = await instances(service)
        assert [one.active_request_count for one in shown] == [1, 1]
        assert len({one.address for one in shown}) == 2

        client.api.kill(NAMES[0])
        ends = await asyncio.gather(*(text.task for text in texts), return_exceptions=True)

        lost = [end for end in ends if isinstance(end, grpc.aio.AioRpcError)]
        assert len(lost) == 1
        assert sorted(text.tokens for text in texts)[1] == 40
        await all_ready(service, NAMES[1:])
        model = (await service.stub.GetModel(pb.GetModelRequest(model_id="twin"))).model
        assert (model.state, model.container_name) == (pb.MODEL_STATE_READY, NAMES[1])
        again = Text(service, 3)
        await again.task
        assert again.tokens == 3

        await service.stub.StopModel(pb.StopModelRequest(model_id="twin"))
        assert client.containers.list(all=True, filters={"name": f"{NAME}-tgi"}) == []


async def test_a_restarted_service_adopts_both_and_a_stop_stops_both(
    client: docker.DockerClient, tmp_path: Path
) -> None:
    async with two(client, tmp_path, leave_containers=True):
        before = {name: client.containers.get(name).id for name in NAMES}

    # The next service would make one run, and finds two.
    path = catalog(tmp_path, twin=SLOW)
    async with on_docker(client, catalog=path) as service:
        await all_ready(service, NAMES)
        assert {name: client.containers.get(name).id for name in NAMES} == before
        texts = [Text(service, 5), Text(service, 5)]
        await asyncio.gather(*(text.task for text in texts))
        assert [text.tokens for text in texts] == [5, 5]

        await service.stub.StopModel(pb.StopModelRequest(model_id="twin"))

        assert await instances(service) == []
        await until(
            lambda: client.containers.list(all=True, filters={"name": f"{NAME}-tgi"}) == [],
            "a container is left",
        )
