"""Where the engines of a daemon are, as this service sees them."""

from __future__ import annotations

import logging
import socket
from dataclasses import dataclass
from typing import Protocol

from docker.models.containers import Container

from inference_service.errors import RuntimeUnavailable
from inference_service.runtimes.docker import namespace, networks
from inference_service.runtimes.docker.calls import Calls
from inference_service.runtimes.docker.endpoint import Endpoint
from inference_service.runtimes.docker.ssh import Remote
from inference_service.runtimes.docker.ways import (
    LOOPBACK,
    Local,
    Neighbour,
    Published,
    Target,
    Tunnelled,
    Way,
)

log = logging.getLogger(__name__)


class Reach(Protocol):
    """The ways to the engines of one daemon."""

    @property
    def network(self) -> str:
        """The network that engines join."""

    @property
    def publish(self) -> str:
        """The address of the daemon's machine on which it publishes ports."""

    def way(self, target: Target, calls: Calls) -> Way:
        """Return the way to an engine that was started."""


@dataclass(frozen=True, slots=True)
class OnThisMachine:
    """Engines of a daemon on this machine: at their own address, else at the published port."""

    endpoint: Endpoint
    network: str = networks.BRIDGE
    in_hosts_network: bool = False
    publish: str = LOOPBACK

    def way(self, target: Target, calls: Calls) -> Way:
        own = self.network, self.in_hosts_network, str(self.endpoint)
        return Local(target, calls, *own)


@dataclass(frozen=True, slots=True)
class InTheSameNetwork:
    """Engines in a network of the container in which this service runs.

    Their published ports are of the daemon's machine: the same port here would be a stranger's.
    """

    own: Container
    network: str
    publish: str = LOOPBACK

    def way(self, target: Target, calls: Calls) -> Way:
        return Neighbour(target, calls, self.network, self.own)


@dataclass(frozen=True, slots=True)
class OnAnotherMachine:
    """Engines of a daemon at another machine's address: at ports that it publishes there."""

    publish: str
    network: str = networks.BRIDGE

    def way(self, target: Target, calls: Calls) -> Way:
        return Published(self.publish, target.published)


@dataclass(frozen=True, slots=True)
class BehindSsh:
    """Engines of a daemon behind `ssh`: through a tunnel to the port published on its 127.0.0.1."""

    remote: Remote
    network: str = networks.BRIDGE
    publish: str = LOOPBACK

    def way(self, target: Target, calls: Calls) -> Way:
        return Tunnelled(self.remote, target.published)


def has_own_network(own: Container | None) -> bool:
    """Return whether this service runs in a container with a network of its own."""
    return own is not None and own.attrs["HostConfig"].get("NetworkMode") != "host"


def find(endpoint: Endpoint, own: Container | None, network: str) -> Reach:
    """Find the way to the engines of a daemon. Raises RuntimeUnavailable.

    A daemon that knows this service's own container is the one beside it, at whatever address.
    """
    if own is not None:
        if has_own_network(own):
            return InTheSameNetwork(own, network)
        return OnThisMachine(endpoint, network, in_hosts_network=True)
    if endpoint.scheme == "ssh":
        return BehindSsh(Remote.of(endpoint.address), network)
    if not (host := endpoint.host):
        return OnThisMachine(endpoint, network)
    address = _resolved(host, endpoint)
    if namespace.is_own(address):
        return OnThisMachine(endpoint, network)
    log.warning(
        "the daemon at %s is on another machine: prompts and answers go to its engines in clear "
        "text; with DOCKER_HOST=ssh://... they are encrypted",
        endpoint,
    )
    return OnAnotherMachine(address, network)


def _resolved(host: str, endpoint: Endpoint) -> str:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise RuntimeUnavailable(error.strerror, str(endpoint)) from None
    return str(min(found, key=lambda each: each[0] is not socket.AF_INET)[4][0])
