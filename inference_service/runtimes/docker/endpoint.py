"""The address of the Docker daemon, and a look at it without the SDK.

It is found as the `docker` command finds it: DOCKER_HOST, else the context that DOCKER_CONTEXT or
`docker context use` has chosen, else the default socket.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from inference_service.errors import RuntimeUnavailable
from inference_service.runtimes.docker import contexts
from inference_service.runtimes.docker.contexts import Tls

_DEFAULT = "unix:///var/run/docker.sock"
_DEFAULT_WITH_TLS = "tcp://localhost:2376"
_BARRED = "the user of this service is not in the group of the socket, such as `docker`"
_WITH_PORT = ("tcp", "http", "https")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a daemon answers. `context` is empty where no context says so."""

    address: str
    context: str = ""
    tls: Tls | None = None

    @property
    def scheme(self) -> str:
        """The part before `://`: unix, tcp, ssh, or what else was given."""
        return self.address.partition("://")[0]

    @property
    def host(self) -> str:
        """The name or address of the daemon's machine; empty for a socket of this one."""
        return "" if self.scheme in ("unix", "npipe") else urlsplit(self.address).hostname or ""

    def __str__(self) -> str:
        return f"{self.address} (context {self.context})" if self.context else self.address


def find() -> Endpoint:
    """Find the daemon that the environment and the files of the `docker` command name.

    Raises ContextUnusable, or RuntimeUnavailable where the address cannot be one.
    """
    host = os.environ.get("DOCKER_HOST", "").strip()
    if not host and (context := contexts.current()) is not None:
        return Endpoint(_whole(context.address or _DEFAULT, context.tls), context.name, context.tls)
    tls = _tls()
    default = _DEFAULT if tls is None else _DEFAULT_WITH_TLS
    return Endpoint(_whole(host or default, tls), tls=tls)


def look() -> None:
    """Raise RuntimeUnavailable where nothing listens at a unix socket; ignore other addresses.

    The SDK would raise the same, but leave a socket open.
    """
    endpoint = find()
    if endpoint.scheme != "unix":
        return
    with socket.socket(socket.AF_UNIX) as connection:
        connection.setblocking(False)
        try:
            connection.connect(endpoint.address.partition("://")[2])
        except BlockingIOError:
            pass  # a daemon listens, and its queue of connections is full
        except PermissionError as error:
            raise unanswered(f"{error.strerror}: {_BARRED}", endpoint) from None
        except OSError as error:
            raise unanswered(error.strerror or error, endpoint) from None


def unanswered(cause: object, endpoint: Endpoint) -> RuntimeUnavailable:
    """Make the error for a daemon that does not answer at its address."""
    return RuntimeUnavailable(cause, str(endpoint))


def _tls() -> Tls | None:
    """Return the files that DOCKER_CERT_PATH and DOCKER_TLS_VERIFY ask for."""
    path, verify = os.environ.get("DOCKER_CERT_PATH"), bool(os.environ.get("DOCKER_TLS_VERIFY"))
    wanted = path or verify or os.environ.get("DOCKER_TLS")
    return Tls.of(Path(path or contexts.folder()), verify) if wanted else None


def _whole(address: str, tls: Tls | None) -> str:
    """Complete an address with what the `docker` command takes for granted."""
    if address.startswith(("/", "unix:/")) and "://" not in address:
        path = address.removeprefix("unix:")
        raise RuntimeUnavailable(f"a socket is written unix://{path}", address)
    if "://" not in address:
        address = f"tcp://{address}"
    scheme = address.partition("://")[0]
    if scheme in _WITH_PORT and _port_of(address) is None and scheme == "tcp":
        address = f"{address.rstrip('/')}:{2375 if tls is None else 2376}"
    return address


def _port_of(address: str) -> int | None:
    try:
        return urlsplit(address).port
    except ValueError as error:
        raise RuntimeUnavailable(error, address) from None
