"""The owner of the claim on a name: what a record says of it, and whether it has surely ended."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from docker import DockerClient
from docker.errors import NotFound

from inference_service.runtimes import identity
from inference_service.runtimes.docker.inside import own_container

_LABEL = "inference-service.claim"


@dataclass(frozen=True, slots=True)
class Owner:
    """A service that holds a name, as the labels of its record keep it.

    `id` is random. `host` and `since` are for people. `namespace` and `socket` are those of
    `identity`. `container` and `started` are the id of the container in which the service runs, and
    the daemon's time of its start; both are empty where it runs in none of this daemon.
    """

    id: str
    host: str = ""
    since: str = ""
    namespace: str = ""
    socket: str = ""
    container: str = ""
    started: str = ""

    @classmethod
    def this(cls, client: DockerClient, held: str) -> Owner:
        """Describe this process, which holds the socket of the name `held`."""
        container = own_container(client)
        return cls(
            secrets.token_hex(16),
            socket.gethostname(),
            time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
            identity.namespace(),
            held,
            str(container.id) if container else "",
            str(container.attrs["State"]["StartedAt"]) if container else "",
        )

    @classmethod
    def read(cls, labels: Mapping[str, str]) -> Owner | None:
        """Return the owner whom the labels of a record name; None where they name none."""
        if not labels.get(f"{_LABEL}.id"):
            return None
        return cls(*(labels.get(f"{_LABEL}.{field.name}", "") for field in fields(cls)))

    def labels(self) -> dict[str, str]:
        """Return the labels of the record."""
        return {f"{_LABEL}.{name}": value for name, value in asdict(self).items()}

    def __str__(self) -> str:
        inside = f" in the container {self.container[:12]}" if self.container else ""
        return f"on {self.host}{inside}, since {self.since}"

    def alive(self, ours: Owner, client: DockerClient) -> bool | None:
        """Return whether this owner runs; None where `ours` cannot see that.

        Two processes of one network namespace see the sockets of each other. A container has begun
        anew when its start is another.
        """
        if self.namespace and self.namespace == ours.namespace and self.socket:
            return self.socket != ours.socket and identity.is_held(self.socket)
        if not self.container:
            return None
        try:
            state = client.api.inspect_container(self.container)["State"]
        except NotFound:
            return False
        return None if state["Running"] and state["StartedAt"] == self.started else False
