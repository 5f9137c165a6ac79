"""The name of a service, which separates its containers and ports from those of others."""

from __future__ import annotations

import errno
import hashlib
import socket
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from inference_service.key import Key

DEFAULT = "inference-service"  # the service whose containers and ports are as documented


class NameTaken(Exception):
    """A service of the same name that uses the same Docker daemon."""


def container_name(service: str, key: Key) -> str:
    """Return `tgi-<key>`, with the service's name before it unless that is the default."""
    name = f"tgi-{key}"
    return name if service == DEFAULT else f"{service}-{name}"


def first_port(service: str) -> int:
    """Return the offset in its range of ports at which a service begins.

    The offset may exceed the range, which is a ring. Two services that began at the same port would
    race for that port at each start.
    """
    return 0 if service == DEFAULT else zlib.crc32(service.encode())


@contextmanager
def alone(service: str, daemon: str) -> Iterator[None]:
    """Hold the name of a service on a daemon. Raises NameTaken.

    A second service of the name would adopt or remove the containers of the first. `daemon` is the
    id that the daemon reports.

    A socket in Linux's abstract namespace holds the name. The kernel closes the socket when the
    process ends, however it ends. Like the ports of engines, the namespace belongs to one machine,
    or to one network namespace; and it needs no folder that all users can write to. Other systems
    than Linux have no such namespace, and nothing is held there.
    """
    if sys.platform != "linux":
        yield
        return
    key = hashlib.sha256(f"{daemon}\n{service}".encode()).hexdigest()
    with socket.socket(socket.AF_UNIX) as holder:
        try:
            holder.bind(f"\0inference-service/{key}")
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise NameTaken(
                f"a service named {service} uses this Docker daemon already; stop it, or give this "
                "one another --service-name"
            ) from None
        yield
