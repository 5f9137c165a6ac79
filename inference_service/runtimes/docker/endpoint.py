"""The address of the Docker daemon, and a look at it without the SDK."""

from __future__ import annotations

import os
import socket

from inference_service.errors import RuntimeUnavailable


def address() -> str:
    """Return DOCKER_HOST, or the default socket of a daemon."""
    return os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"


def look() -> None:
    """Raise RuntimeUnavailable where nothing listens at a unix socket; ignore other addresses.

    The SDK would raise the same, but leave a socket open.
    """
    scheme, _, path = address().partition("://")
    if scheme != "unix":
        return
    with socket.socket(socket.AF_UNIX) as connection:
        connection.setblocking(False)
        try:
            connection.connect(path)
        except BlockingIOError:
            pass  # a daemon listens, and its queue of connections is full
        except OSError as error:
            raise unanswered(error.strerror or error) from None


def unanswered(cause: object) -> RuntimeUnavailable:
    """Make the error for a daemon that does not answer at its address."""
    return RuntimeUnavailable(cause, address())
