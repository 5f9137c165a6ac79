"""The network of a container, as the kernel of this machine shows it.

An address alone proves nothing: a daemon in a namespace or a machine of its own gives its
containers the same addresses as the one beside it. A connection that also stands in the table of
sockets of the container's own process has come to that container.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import NamedTuple, Protocol

_PROC = Path("/proc")
_LISTENS = "0A"
_PATIENCE = 1.0  # seconds for a connection within a machine

Address = tuple[str, int]


class Found(Enum):
    """What answers at an address."""

    OURS = auto()
    NOBODY_YET = auto()
    NOT_OURS = auto()


class Proof(Protocol):
    """What is known about the container behind an address."""

    def listens(self, port: int) -> bool:
        """Return whether the container is known to listen at this port."""

    def has(self, here: Address, there: Address) -> bool:
        """Return whether the container has the connection from `here` at its address `there`."""


class _Socket(NamedTuple):
    local: Address
    remote: Address
    listens: bool


@dataclass(frozen=True, slots=True)
class Namespace:
    """The namespace of a process, by its number on this machine."""

    pid: int

    @classmethod
    def of(cls, pid: int, container_id: str) -> Namespace | None:
        """Return that of a container; None where the process is not seen to be in it."""
        with contextlib.suppress(OSError):
            if pid > 0 and container_id in (_PROC / str(pid) / "cgroup").read_text():
                return cls(pid)
        return None

    def listens(self, port: int) -> bool:
        return any(
            each.listens and each.local[1] == port and not _loopback(each.local[0])
            for each in self._sockets()
        )

    def has(self, here: Address, there: Address) -> bool:
        return any(each.local == there and each.remote == here for each in self._sockets())

    def _sockets(self) -> Iterator[_Socket]:
        for table in ("tcp", "tcp6"):
            try:
                text = (_PROC / str(self.pid) / "net" / table).read_text()
            except OSError:  # it has ended, or there is no IPv6
                continue
            for line in text.splitlines()[1:]:
                _, local, remote, state, *_ = line.split()
                yield _Socket(_address(local), _address(remote), state == _LISTENS)


def dial(address: Address, proof: Proof) -> Found:
    """Connect to an address and say nothing; return whether the container has the connection."""
    for _ in range(2):
        try:
            with socket.create_connection(address, _PATIENCE) as connection:
                ours = proof.has(_plain(connection.getsockname()), _plain(connection.getpeername()))
                return Found.OURS if ours else Found.NOT_OURS
        except ConnectionRefusedError:
            if not proof.listens(address[1]):
                return Found.NOBODY_YET
        except OSError:
            break
    return Found.NOT_OURS  # the container listens, and the address refuses


def is_own(address: str) -> bool:
    """Return whether an address is one of this machine, or of this service's container."""
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
        with socket.socket(family) as probe:
            probe.bind((address, 0))
    except (OSError, ValueError):
        return False
    return True


def _address(shown: str) -> Address:
    """Read an address as the kernel shows it: words in the order of this machine's bytes."""
    host, _, port = shown.partition(":")
    words = [bytes.fromhex(host[start : start + 8]) for start in range(0, len(host), 8)]
    packed = b"".join(word[::-1] if sys.byteorder == "little" else word for word in words)
    return _plain((socket.inet_ntop(_family(packed), packed), int(port, 16)))


def _family(packed: bytes) -> socket.AddressFamily:
    return socket.AF_INET if len(packed) == 4 else socket.AF_INET6


def _plain(address: tuple[str, int] | tuple[str, int, int, int]) -> Address:
    """Write an IPv4 address within IPv6 as what it is."""
    host = ipaddress.ip_address(address[0].partition("%")[0])
    mapped = host.ipv4_mapped if isinstance(host, ipaddress.IPv6Address) else None
    return str(mapped or host), address[1]


def _loopback(host: str) -> bool:
    return ipaddress.ip_address(host).is_loopback
