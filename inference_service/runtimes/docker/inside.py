"""The container in which this service runs, as the daemon knows it."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

from docker import DockerClient
from docker.errors import APIError, NotFound
from docker.models.containers import Container

_SELF = Path("/proc/self")
# Files that an engine mounts into each container, from a folder whose name is the container's id.
_MOUNTED = ("/etc/hostname", "/etc/hosts", "/etc/resolv.conf")
_ID = re.compile(r"[0-9a-f]{64}")
_SHORT_ID = re.compile(r"[0-9a-f]{12}")


def own_container(client: DockerClient) -> Container | None:
    """Return the container of this process; None where this daemon has none such.

    An id is random, so a daemon that knows it is the one that made the container, at whatever
    address it answers. A container in the network of another may be found as that one.
    """
    for name in dict.fromkeys(_candidates()):
        try:
            container = client.containers.get(name)
        except NotFound:
            continue
        except APIError:  # of podman, for a name that is that of a pod
            continue
        if str(container.id).startswith(name) and container.status == "running":
            return container
    return None


def _candidates() -> Iterator[str]:
    """Yield the ids that this process may have, the surest first."""
    for line in _lines("mountinfo"):
        _, _, _, root, target, *_ = line.split()
        if target in _MOUNTED:
            yield from _ID.findall(root)
    for line in _lines("cgroup"):
        yield from _ID.findall(line)[-1:]
    if _SHORT_ID.fullmatch(name := socket.gethostname()):
        yield name


def _lines(name: str) -> list[str]:
    try:
        return (_SELF / name).read_text().splitlines()
    except OSError:  # on other systems than Linux
        return []
