"""The connection with a daemon: the client of the SDK, and what is behind it."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any

from docker import DockerClient
from docker.constants import MINIMUM_DOCKER_API_VERSION
from docker.errors import APIError
from docker.models.containers import Container
from docker.tls import TLSConfig
from requests import PreparedRequest, Response
from requests.adapters import HTTPAdapter

from inference_service.errors import ContextUnusable, NetworkUnusable, RuntimeUnavailable
from inference_service.runtimes.docker import endpoint, inside, networks, reach
from inference_service.runtimes.docker.calls import NO_DOCKER, ODD, Calls
from inference_service.runtimes.docker.contexts import Tls
from inference_service.runtimes.docker.endpoint import Endpoint
from inference_service.runtimes.docker.pulse import Pulse
from inference_service.runtimes.docker.reach import InTheSameNetwork, OnThisMachine, Reach
from inference_service.runtimes.docker.ssh import Dialler, Remote

_FIRST = 5  # seconds for each of the first calls
_FIRST_BY_SSH = 15  # which has to connect before
_CALL = 60  # seconds for each other one


@dataclass(frozen=True, slots=True)
class Connection:
    """A daemon that answers, what it says of itself, and the way to its engines.

    `own` is this service's container, where it runs in one of this daemon.
    """

    endpoint: Endpoint
    client: DockerClient
    info: dict[str, Any]
    own: Container | None
    reach: Reach
    calls: Calls
    dialler: Dialler | None

    @property
    def here(self) -> bool:
        """Whether the daemon is taken for one of this machine, by its socket or its address."""
        return isinstance(self.reach, (OnThisMachine, InTheSameNetwork))

    async def close(self) -> None:
        """End all calls and connections."""
        await self.calls.close()
        self.client.close()
        if self.dialler is not None:
            self.dialler.close()


async def connect(network: str | None) -> Connection:
    """Connect to the daemon that `endpoint` finds, whose engines shall join a network.

    Raises RuntimeUnavailable.
    """
    found = endpoint.find()
    dialler = Dialler(Remote.of(found.address)) if found.scheme == "ssh" else None
    said = dialler.said if dialler is not None else str
    first = _FIRST_BY_SSH if dialler else _FIRST
    opening = Calls(said=said)
    try:
        async with asyncio.timeout(2 * first):
            client, info, own, way = await opening.call(_opened, found, network, dialler, first)
    except (APIError, RuntimeUnavailable, TimeoutError, *ODD) as error:
        if dialler is not None:
            dialler.close()
        if isinstance(error, (ContextUnusable, NetworkUnusable)):
            raise
        raise endpoint.unanswered(_cause(error) or f"within {2 * first} s", found) from None
    finally:
        await opening.close()
    return Connection(found, client, info, own, way, Calls(Pulse.of(client), said), dialler)


def _cause(error: Exception) -> object:
    if isinstance(error, RuntimeUnavailable):
        return error.metadata["cause"]
    return NO_DOCKER if isinstance(error, ODD) else str(error)


def _opened(
    found: Endpoint, network: str | None, dialler: Dialler | None, first: int
) -> tuple[DockerClient, dict[str, Any], Container | None, Reach]:
    with contextlib.ExitStack() as stack:
        client = _client(dialler.url if dialler else found.address, found.tls, first)
        stack.callback(client.close)
        info = client.info()
        if "ServerVersion" not in info:
            raise RuntimeUnavailable(NO_DOCKER)
        own = inside.own_container(client)
        apart = own if reach.has_own_network(own) else None
        way = reach.find(found, own, networks.chosen(client, apart, network))
        client.api.timeout = _CALL
        stack.pop_all()
        return client, info, own, way


def _client(url: str, tls: Tls | None, timeout: int) -> DockerClient:
    if tls is None:
        client = DockerClient(base_url=url, timeout=timeout)
        client.api.mount("http://", _Closing())
        return client
    # A client that is told a version asks for none before it has the adapter.
    with contextlib.closing(
        DockerClient(url, MINIMUM_DOCKER_API_VERSION, timeout, _tls(tls))
    ) as first:
        first.api.mount("https://", _Trusting(tls))
        version = first.version(api_version=False)["ApiVersion"]
    client = DockerClient(url, version, timeout, _tls(tls))
    client.api.mount("https://", _Trusting(tls))
    return client


class _Closing(HTTPAdapter):
    """The way to a daemon at an address, whose connections are closed with the client.

    The SDK ties each stream to its socket, and urllib3 each socket to its pool, so that without it
    nobody closes them.
    """

    def close(self) -> None:
        pools = self.poolmanager.pools
        for key in pools.keys():  # noqa: SIM118 - it has no iterator, lest another thread changes it
            if (pool := pools.get(key)) is not None:
                pool.close()
        super().close()


class _Trusting(_Closing):
    """The way to a daemon whose certificate is checked as its files say, and not otherwise.

    Without it REQUESTS_CA_BUNDLE wins, which is for the servers of the internet.
    """

    def __init__(self, tls: Tls) -> None:
        super().__init__()
        self._verify = str(tls.ca) if tls.verify and tls.ca else tls.verify

    def send(self, request: PreparedRequest, *args: Any, **options: Any) -> Response:
        return super().send(request, *args, **options | {"verify": self._verify})


def _tls(tls: Tls) -> TLSConfig:
    pair = (str(tls.cert), str(tls.key)) if tls.cert and tls.key else None
    return TLSConfig(client_cert=pair, ca_cert=str(tls.ca) if tls.ca else None, verify=tls.verify)
