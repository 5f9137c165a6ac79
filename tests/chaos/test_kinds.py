"""Each kind of Docker: the engine, and then the service, is killed amid streams."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

import pytest
from docker import DockerClient

from tests.chaos.callers import LOST, STREAMS
from tests.chaos.conftest import Faulty
from tests.chaos.test_service import adopted, apart
from tests.chaos.trial import ENDLESS
from tests.docker import images, needs
from tests.docker.daemon import Daemon
from tests.docker.podman import Podman
from tests.docker.rootless import Rootless

pytestmark = [pytest.mark.docker, pytest.mark.chaos]

DIED = {"ENGINE_FAILED", "START_BACKING_OFF"}

Settings = Callable[..., dict[str, Any]]


class Engine(Protocol):
    """A daemon of its own: its address, and a client."""

    url: str
    client: DockerClient


Kind = tuple[Callable[[], None], Callable[[], AbstractContextManager[Engine]]]

KINDS: dict[str, Kind] = {
    "userns-remap": (
        needs.require_private_daemon,
        lambda: Daemon(flags=["--userns-remap", "default"]),
    ),
    "userland-proxy: false": (
        needs.require_private_daemon,
        lambda: Daemon(flags=["--userland-proxy=false"]),
    ),
    "rootless": (needs.require_rootless, Rootless),
    "podman": (needs.require_podman, Podman),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> Iterator[tuple[str, Engine]]:
    """Run a daemon of each kind, which has the double of TGI."""
    require, engine = KINDS[request.param]
    require()
    with engine() as running:
        images.tgi_double(running.client)
        yield request.param, running


@pytest.fixture
def on(kind: tuple[str, Engine], monkeypatch: pytest.MonkeyPatch) -> str:
    """Use the daemon of a kind, and return the name of the kind."""
    name, engine = kind
    monkeypatch.setenv("DOCKER_HOST", engine.url)
    return name


async def test_an_engine_is_killed(faulty: Faulty, tgi: Settings, on: str) -> None:
    async with (
        faulty(f"{on}: kill -9 of the engine amid 10 streams", DIED) as trial,
        trial.serving(**tgi(DOUBLE_TOKENS_PER_SECOND=50)) as service,
    ):
        crowd = trial.call(service, 10, ENDLESS, STREAMS)
        await crowd.reading()
        trial.strike()
        trial.container().kill()
        await crowd.answered()
        await trial.heal(service)


async def test_the_service_is_killed(faulty: Faulty, tgi: Settings, on: str) -> None:
    async with faulty(f"{on}: kill -9 of the service amid 10 streams", {LOST}) as trial:
        settings = trial.settings | tgi(DOUBLE_TOKENS_PER_SECOND=50)
        async with apart(trial, settings) as (service, call):
            crowd = call(10, ENDLESS, STREAMS)
            await crowd.reading()
            before = trial.container()
            trial.strike()
            await service.kill()
            await crowd.answered()
        await adopted(trial, settings, before)
        assert [caller.answers for caller in crowd.callers] == [[LOST]] * 10
