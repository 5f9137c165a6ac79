"""A kill of the service, whose engines are adopted, and a port that another program takes."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Any

import grpc
import pytest
from docker.models.containers import Container

from inference_service.runtimes.ports import Ports
from inference_service.v1 import model_service_pb2 as pb
from inference_service.v1 import model_service_pb2_grpc as pb_grpc
from tests.chaos.callers import ALL, LOST, STREAMS, Crowd, Kind
from tests.chaos.conftest import Faulty
from tests.chaos.trial import ENDLESS, SHORT, Trial
from tests.command import Command, command
from tests.service import serving
from tests.waiting import SLOWLY, within

pytestmark = [pytest.mark.docker, pytest.mark.chaos]

Settings = Callable[..., dict[str, Any]]
Call = Callable[..., Crowd]


@asynccontextmanager
async def apart(trial: Trial, settings: dict[str, Any]) -> AsyncGenerator[tuple[Command, Call]]:
    """Run the service as a process of its own, and yield a function that calls its model."""
    async with (
        command(**settings) as service,
        grpc.aio.insecure_channel(service.target) as channel,
    ):
        trial.http.base_url = service.url
        stub = pb_grpc.ModelServiceStub(channel)

        def call(count: int, body: Any = SHORT, kinds: tuple[Kind, ...] = ALL) -> Crowd:
            crowd = Crowd(stub, trial.http, count, body | {"model_id": trial.model_id}, kinds)
            trial.crowds.append(crowd)
            return crowd

        yield service, call


async def adopted(trial: Trial, settings: dict[str, Any], before: Container) -> None:
    """Check that the next service adopts the engine, without a restart."""
    async with serving(**settings) as service:
        await trial.heal(service)
        now = trial.container()
        assert now.id == before.id
        assert now.attrs["State"]["StartedAt"] == before.attrs["State"]["StartedAt"]
        await trial.judge()


async def killed_amid_streams(trial: Trial, settings: dict[str, Any]) -> None:
    """Kill the service amid streams, and check that they are lost and the engine is adopted."""
    async with apart(trial, settings) as (service, call):
        crowd = call(10, ENDLESS, STREAMS)
        await crowd.reading()
        before = trial.container()
        trial.strike()
        await service.kill()
        await crowd.answered()
    await adopted(trial, settings, before)
    assert [caller.answers for caller in crowd.callers] == [[LOST]] * 10


async def test_killed_amid_streams(faulty: Faulty, tgi: Settings) -> None:
    async with faulty("kill -9 of the service amid 10 streams", {LOST}) as trial:
        await killed_amid_streams(trial, trial.settings | tgi(DOUBLE_TOKENS_PER_SECOND=50))


async def test_killed_while_the_engine_loads(faulty: Faulty, tgi: Settings) -> None:
    async with faulty("kill -9 of the service while it loads", {LOST}) as trial:
        settings = trial.settings | tgi(DOUBLE_LOAD_SECONDS=3)
        async with apart(trial, settings) as (service, call):
            crowd = call(20)
            await loading(service, trial.model_id)
            before = trial.container()
            trial.strike()
            await service.kill()
            await crowd.answered()
        await adopted(trial, settings, before)
        assert [caller.answers for caller in crowd.callers] == [[LOST]] * 20


async def loading(service: Command, model_id: str) -> None:
    """Return when the engine loads its weights."""
    async with (
        within(SLOWLY, "the engine did not load its weights"),
        grpc.aio.insecure_channel(service.target) as channel,
    ):
        request = pb.WatchModelsRequest(model_id=model_id)
        async for change in pb_grpc.ModelServiceStub(channel).WatchModels(request):
            if change.model.start_progress.phase == pb.START_PHASE_LOADING_WEIGHTS:
                return


class Stolen(Ports):
    """Ports of which another program takes the next `left`, each after it was found free."""

    def __init__(self, ports: str, thefts: ExitStack) -> None:
        first, _, last = ports.partition("-")
        super().__init__(int(first), int(last))
        self._thefts = thefts
        self.left = 0

    @contextmanager
    def claim(self, avoid: frozenset[int] = frozenset()) -> Iterator[int]:
        with super().claim(avoid) as port:
            if self.left:
                self.left -= 1
                self._thefts.enter_context(socket.create_server(("127.0.0.1", port)))
            yield port


async def test_a_port_is_taken_between_choice_and_start(faulty: Faulty, tgi: Settings) -> None:
    async with faulty("two ports taken between choice and start") as trial:
        with ExitStack() as thefts:
            ports = Stolen(trial.ports, thefts)
            async with trial.serving(claims=ports, **tgi()) as service:
                ports.left = 2
                trial.strike()
                await trial.call(service, 20).answered()
                await trial.heal(service)
                assert ports.left == 0
                thefts.close()
