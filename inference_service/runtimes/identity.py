"""What keeps the services of one machine apart: names, ports, and that each name is used once."""

from __future__ import annotations

import errno
import hashlib
import socket
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

DEFAULT = "inference-service"  # the service whose containers and ports are as documented


class NameTaken(Exception):
    """A service of the same name uses the same Docker Engine."""


def container_name(service: str, model_id: str) -> str:
    """`tgi-<model id>`, after the name of a service that is not the default one."""
    name = f"tgi-{model_id}"
    return name if service == DEFAULT else f"{service}-{name}"


def first_port(service: str) -> int:
    """Where in its range of ports a service begins to look, as an offset, to be taken round it.

    Two services that began at the same place would race for the same port at each start.
    """
    return 0 if service == DEFAULT else zlib.crc32(service.encode())


@contextmanager
def alone(service: str, engine: str) -> Iterator[None]:
    """Be the only service of this name on `engine`, which is what its daemon calls itself.

    A second one would take the first one's containers for what an earlier run has left. Raises
    NameTaken. The kernel lets go when the process ends, however it ends. The claim is a socket in
    Linux's abstract namespace: like the engines' ports it is one machine's, or one network
    namespace's, and it needs no folder that all users can write to. Elsewhere nothing is claimed.
    """
    if sys.platform != "linux":
        yield
        return
    key = hashlib.sha256(f"{engine}\n{service}".encode()).hexdigest()
    with socket.socket(socket.AF_UNIX) as claim:
        try:
            claim.bind(f"\0inference-service/{key}")
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise NameTaken(
                f"a service named {service} uses this Docker Engine already; stop it, or give this "
                "one another --service-name"
            ) from None
        yield
