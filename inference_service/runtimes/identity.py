"""The name of a service, which separates its containers and ports from those of others."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from inference_service.key import Key

DEFAULT = "inference-service"  # the service whose containers and ports are as documented
ADVICE = "stop it, or give this one another --service-name"  # to a service whose name is taken


class NameTaken(Exception):
    """A service of the same name that uses the same Docker daemon."""


def container_name(service: str, key: Key) -> str:
    """Return `tgi-<key>`, with the service's name before it unless that is the default."""
    name = f"tgi-{key}"
    return name if service == DEFAULT else f"{service}-{name}"


def record_name(service: str) -> str:
    """Return the name of the record of the claim, which no container of an engine has.

    Those end with the key of a run, and so never in capital letters.
    """
    return f"{service}-CLAIM"


def first_port(service: str) -> int:
    """Return the offset in its range of ports at which a service begins.

    The offset may exceed the range, which is a ring. Two services that began at the same port would
    race for that port at each start.
    """
    return 0 if service == DEFAULT else zlib.crc32(service.encode())


@contextmanager
def alone(service: str, daemon: str) -> Iterator[str]:
    """Hold the name of a service on this machine, and give the socket's name. Raises NameTaken.

    `daemon` is the id that the daemon reports. An id that is another at each question, as podman's
    is, refuses nobody here.

    A socket in Linux's abstract namespace holds the name. The kernel closes the socket when the
    process ends, however it ends. Like the ports of engines, the namespace belongs to one machine,
    or to one network namespace; and it needs no folder that all users can write to. Other systems
    than Linux have no such namespace, and nothing is held there.
    """
    if sys.platform != "linux":
        yield ""
        return
    key = hashlib.sha256(f"{daemon}\n{service}".encode()).hexdigest()
    name = f"inference-service/{key}"
    with socket.socket(socket.AF_UNIX) as holder:
        if not _binds(holder, name):
            raise NameTaken(f"a service named {service} uses this Docker daemon already; {ADVICE}")
        yield name


def is_held(name: str) -> bool:
    """Return whether a process holds this socket in the network namespace of this one."""
    with socket.socket(socket.AF_UNIX) as probe:
        return not _binds(probe, name)


def namespace() -> str:
    """Return the id of this boot and network namespace, where sockets of one name meet.

    Empty where that is unknown, as on other systems than Linux.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/net')}"
    except OSError:
        return ""


def _binds(end: socket.socket, name: str) -> bool:
    """Bind a socket to a name, unless another one is."""
    try:
        end.bind(f"\0{name}")
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return False
    return True
