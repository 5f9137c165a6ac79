"""The ways to an engine in a container.

Prompts and the keys of engines go that way, so that each way is sure of the container at its end,
or is not taken.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from docker.errors import APIError
from docker.models.containers import Container

from inference_service.errors import LaunchError, RuntimeUnavailable
from inference_service.runtimes.docker import namespace, networks
from inference_service.runtimes.docker.calls import Calls
from inference_service.runtimes.docker.namespace import Address, Found, Namespace, Proof
from inference_service.runtimes.docker.ssh import Remote
from inference_service.runtimes.docker.tunnel import Tunnel

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"

_HELD = 5.0  # seconds in which the daemon takes the port that it publishes
_UNREACHED = 5  # tries to reach a container that is in the same network


@dataclass(frozen=True, slots=True)
class Target:
    """A container, the port at which its engine listens, and the one that is published for it."""

    container: Container
    port: int
    published: int

    @property
    def name(self) -> str:
        """The name of the container."""
        return str(self.container.name)


class Way(Protocol):
    """The way to one engine, while it is open."""

    async def listens(self) -> str:
        """Return the host and port at which the engine listens, once it does. Raises LaunchError.

        May be asked once.
        """

    def close(self) -> None:
        """Give the way up."""


class Published:
    """A port that the daemon publishes, at an address that this service was told."""

    def __init__(self, host: str, port: int) -> None:
        self._at = _shown((host, port))

    async def listens(self) -> str:
        """Return at once: the daemon has held the port since the container was started."""
        return self._at

    def close(self) -> None:
        pass


class Tunnelled:
    """A tunnel to the published port."""

    def __init__(self, remote: Remote, port: int) -> None:
        self._tunnel = Tunnel(remote, port)

    async def listens(self) -> str:
        return _shown((LOOPBACK, await self._tunnel.open()))

    def close(self) -> None:
        self._tunnel.close()


class _Own:
    """The address of a container in a network."""

    def __init__(self, target: Target, calls: Calls, network: str) -> None:
        self._target = target
        self._calls = calls
        self._network = network

    def close(self) -> None:
        pass

    @property
    def _address(self) -> Address | None:
        """The address, as the daemon said it when the container had been started."""
        host = networks.address(self._target.container, self._network)
        return (host, self._target.port) if host else None

    async def _dial(self, address: Address, proof: Proof) -> Found:
        return await asyncio.to_thread(namespace.dial, address, proof)  # asks no daemon


class Local(_Own):
    """The own address of a container on this machine, else its published port.

    The own address needs no program between, and goes on while the daemon is away. It is taken
    where the kernel shows that a connection to it has come to the container, or where this service
    is in a container `in_hosts_network`, and so in the daemon's own.
    """

    def __init__(
        self, target: Target, calls: Calls, network: str, in_hosts_network: bool, daemon: str
    ) -> None:
        super().__init__(target, calls, network)
        self._in_hosts_network = in_hosts_network
        self._daemon = daemon

    async def listens(self) -> str:
        address = self._address
        proof = self._proof()
        if address is not None and proof is not None:
            for pause in _pauses():
                found = await self._dial(address, proof)
                if found is Found.OURS:
                    return _shown(address)
                if found is Found.NOT_OURS:
                    log.debug("%s does not lead to %s", _shown(address), self._target.name)
                    break
                await asyncio.sleep(pause)
        await self._held()
        return _shown((LOOPBACK, self._target.published))

    def _proof(self) -> Proof | None:
        container = self._target.container
        if self._in_hosts_network:
            near = namespace.is_own(networks.gateway(container, self._network))
            return _Certain() if near else None
        return Namespace.of(int(container.attrs["State"].get("Pid") or 0), str(container.id))

    async def _held(self) -> None:
        """Return when somebody holds the published port, which was free before the start.

        Raises LaunchError where it is published in another network than that of this service.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(_HELD):
                for pause in _pauses():
                    if await asyncio.to_thread(_taken, self._target.published):
                        return
                    await asyncio.sleep(pause)
        raise LaunchError(
            f"the daemon at {self._daemon} publishes the port {self._target.published} on "
            "another 127.0.0.1 than this service's, so that the engine cannot be reached; if the "
            "daemon is on another machine, name it with DOCKER_HOST=ssh://... or tcp://...; if "
            "this service is in a container, give that the network of the host, or the socket of "
            "the daemon that runs it"
        )


class Neighbour(_Own):
    """The address of a container in a network in which the container of this service is too."""

    def __init__(self, target: Target, calls: Calls, network: str, own: Container) -> None:
        super().__init__(target, calls, network)
        self._own = own

    async def listens(self) -> str:
        address = self._address
        with suppress(APIError, RuntimeUnavailable):  # then the address is that of before
            await self._calls.call(self._own.reload)
        here = networks.address(self._own, self._network)
        unreached = 0
        for pause in _pauses():
            found = Found.NOT_OURS
            if address is not None and here:
                found = await self._dial(address, _From(here))
            if found is Found.OURS:
                assert address is not None
                return _shown(address)
            unreached = unreached + 1 if found is Found.NOT_OURS else 0
            if unreached == _UNREACHED:
                break
            await asyncio.sleep(pause)
        raise LaunchError(
            f"the engine at {_shown(address) if address else 'no address'} cannot be reached from "
            f"{here or 'no address'} in the network {self._network}, in which this service's "
            f"container {self._own.name} is too; name another network with `docker_network`"
        )


class _Certain:
    """The proof of an address in the daemon's own network."""

    def listens(self, port: int) -> bool:
        return False

    def has(self, here: Address, there: Address) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class _From:
    """The proof by the address from which a connection goes: that of the own container."""

    address: str

    def listens(self, port: int) -> bool:
        return False

    def has(self, here: Address, there: Address) -> bool:
        return here[0] == self.address


def _taken(port: int) -> bool:
    """Return whether somebody listens at a port of 127.0.0.1, or answers at it."""
    with socket.socket() as probe:
        # Connections of the last engine may be in TIME_WAIT.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return True
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((LOOPBACK, port)) == 0


def _shown(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _pauses() -> Iterator[float]:
    pause = 0.02
    while True:
        yield pause
        pause = min(pause * 1.2, 0.5)
