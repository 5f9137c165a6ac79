"""Each kind of Docker: the engine, and then the service, is killed amid streams."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Protocol

import pytest
from docker import DockerClient

from tests.chaos.callers import LOST, STREAMS
from tests.chaos.conftest import Faulty
from tests.chaos.test_service import killed_amid_streams
from tests.chaos.trial import ENDLESS
from tests.docker import images, needs
from tests.docker.daemon import Daemon
from tests.docker.podman import Podman
from tests.docker.rootless import Rootless
from tests.docker.sshd import Sshd

pytestmark = [pytest.mark.docker, pytest.mark.chaos]

DIED = {"ENGINE_FAILED", "START_BACKING_OFF"}

Settings = Callable[..., dict[str, Any]]


class Engine(Protocol):
    """A daemon of its own: its address on this machine, and a client."""

    url: str
    client: DockerClient


class On(NamedTuple):
    """A kind of Docker that runs: its name, a daemon, and the variables that lead to it."""

    name: str
    engine: Engine
    variables: Mapping[str, str]
    pooled: tuple[str, ...]  # of which its connections are made, beside sockets of this machine

    @property
    def connect(self) -> Callable[[], DockerClient]:
        """Return what connects the test with the daemon, whatever the way of the service."""
        return partial(DockerClient, base_url=self.engine.url)


Found = Iterator[tuple[Engine, dict[str, str]]]


@contextmanager
def by_socket(engine: AbstractContextManager[Engine]) -> Found:
    with engine as running:
        yield running, {"DOCKER_HOST": running.url}


@contextmanager
def by_context() -> Found:
    with TemporaryDirectory() as folder, Daemon() as daemon:
        environment = os.environ | {"DOCKER_CONFIG": folder}
        make = ["docker", "context", "create", "mine", "--docker", f"host={daemon.url}"]
        for command in (make, ["docker", "context", "use", "mine"]):
            subprocess.run(command, env=environment, check=True, capture_output=True)
        yield daemon, {"DOCKER_CONFIG": folder}


@contextmanager
def by_tls() -> Found:
    with Daemon(apart=True, tls=True) as daemon:
        certificates = {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(daemon.folder)}
        yield daemon, {"DOCKER_HOST": daemon.tls_url, **certificates}


@contextmanager
def by_ssh() -> Found:
    with Daemon(apart=True) as daemon, Sshd(daemon) as sshd:
        path = f"{sshd.path}{os.pathsep}{os.environ['PATH']}"
        yield daemon, {"DOCKER_HOST": sshd.url, "PATH": path}


def private(*flags: str) -> AbstractContextManager[tuple[Engine, dict[str, str]]]:
    return by_socket(Daemon(flags=flags))


class Kind(NamedTuple):
    """A kind of Docker: what it needs, and how it is run."""

    require: Callable[[], None]
    run: Callable[[], AbstractContextManager[tuple[Engine, dict[str, str]]]]
    pooled: tuple[str, ...] = ()


_PRIVATE = needs.require_private_daemon

KINDS = {
    "userns-remap": Kind(_PRIVATE, partial(private, "--userns-remap", "default")),
    "userland-proxy: false": Kind(_PRIVATE, partial(private, "--userland-proxy=false")),
    "rootless": Kind(needs.require_rootless, lambda: by_socket(Rootless())),
    "podman": Kind(needs.require_podman, lambda: by_socket(Podman())),
    "a context": Kind(_PRIVATE, by_context),
    "tcp with TLS": Kind(_PRIVATE, by_tls, ("file of tcp",)),
    "ssh": Kind(needs.require_ssh, by_ssh, ("process ssh", "file of pipe")),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> Iterator[On]:
    """Run a daemon of each kind, which has the double of TGI."""
    kind = KINDS[request.param]
    _PRIVATE()
    kind.require()
    with kind.run() as (engine, variables):
        images.tgi_double(engine.client)
        yield On(request.param, engine, variables, kind.pooled)


@pytest.fixture
def on(kind: On, monkeypatch: pytest.MonkeyPatch) -> On:
    """Lead the service to the daemon of a kind."""
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    for name, value in kind.variables.items():
        monkeypatch.setenv(name, value)
    return kind


async def test_an_engine_is_killed(faulty: Faulty, tgi: Settings, on: On) -> None:
    fault = f"{on.name}: kill -9 of the engine amid 10 streams"
    async with (
        faulty(fault, DIED, connect=on.connect) as trial,
        trial.serving(**tgi(DOUBLE_TOKENS_PER_SECOND=50)) as service,
    ):
        trial.pooled = on.pooled
        crowd = trial.call(service, 10, ENDLESS, STREAMS)
        await crowd.reading()
        trial.strike()
        trial.container().kill()
        await crowd.answered()
        await trial.heal(service)


async def test_the_service_is_killed(faulty: Faulty, tgi: Settings, on: On) -> None:
    fault = f"{on.name}: kill -9 of the service amid 10 streams"
    async with faulty(fault, {LOST}, connect=on.connect) as trial:
        await killed_amid_streams(trial, trial.settings | tgi(DOUBLE_TOKENS_PER_SECOND=50))
