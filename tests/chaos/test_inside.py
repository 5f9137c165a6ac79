"""A service in a container, with the socket of the daemon that runs it, is killed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import grpc
import pytest
from docker import DockerClient
from docker.models.containers import Container

from inference_service.v1 import model_service_pb2_grpc as pb_grpc
from tests.chaos.callers import LOST, STREAMS, TEXT, Crowd
from tests.chaos.conftest import Faulty
from tests.chaos.trial import ENDLESS, SHORT, Trial
from tests.docker import images
from tests.docker.daemon import Daemon
from tests.docker.needs import require_private_daemon
from tests.waiting import SLOWLY, within

pytestmark = [pytest.mark.docker, pytest.mark.chaos]

GRPC, REST = 50051, 8000


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """A daemon in whose network containers reach each other."""
    require_private_daemon()
    with Daemon(apart=True) as daemon:
        images.service(daemon.client)
        images.tgi_double(daemon.client)
        yield daemon


def created(trial: Trial, daemon: Daemon, settings: dict[str, Any]) -> Container:
    """Make the container of the service, which publishes its ports at the daemon's address."""
    catalog = settings.pop("catalog")
    words = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    socket = daemon.url.removeprefix("unix://")
    return trial.client.containers.create(
        images.service(trial.client),
        ["--host=0.0.0.0", f"--catalog={catalog}", *words],
        name=f"{trial.service_name}-service",
        ports={f"{port}/tcp": (daemon.address, port) for port in (GRPC, REST)},
        volumes=[f"{socket}:/var/run/docker.sock", f"{catalog.parent}:{catalog.parent}:ro"],
    )


async def test_killed_amid_streams(
    faulty: Faulty, tgi: Callable[..., dict[str, Any]], daemon: Daemon
) -> None:
    """The next run of the container holds the name at once, and adopts the engine."""
    connect = partial(DockerClient, base_url=daemon.url)
    fault = "in a container: kill -9 of the service amid 10 streams"
    async with (
        faulty(fault, {LOST}, connect=connect) as trial,
        grpc.aio.insecure_channel(f"{daemon.address}:{GRPC}") as channel,
    ):
        settings = trial.settings | tgi(DOUBLE_TOKENS_PER_SECOND=50) | {"drain_timeout": 1}
        service = created(trial, daemon, settings)
        trial.http.base_url = f"http://{daemon.address}:{REST}"
        stub = pb_grpc.ModelServiceStub(channel)

        def call(count: int, body: Any, *kinds: Any) -> Crowd:
            return Crowd(stub, trial.http, count, body | {"model_id": trial.model_id}, kinds)

        async def writes() -> None:
            async with within(SLOWLY, "the service did not write"):
                while (crowd := call(1, SHORT, "/generate")).callers:
                    await crowd.answered()
                    if crowd.callers[0].answers == [TEXT]:
                        return
                    await asyncio.sleep(0.1)

        try:
            service.start()
            await writes()
            crowd = call(10, ENDLESS, *STREAMS)
            trial.crowds.append(crowd)
            await crowd.reading()
            before = trial.container().id
            trial.strike()
            service.kill()
            await crowd.answered()
            service.start()
            await writes()
            trial.row.healthy = asyncio.get_running_loop().time() - trial.struck_at
            assert trial.container().id == before
            await trial.judge()
            service.stop(timeout=30)
        finally:
            service.remove(force=True)
