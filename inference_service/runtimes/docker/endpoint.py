"""Where the Docker Engine is, and whether anything listens there, told without its SDK."""

from __future__ import annotations

import os
import socket

from inference_service.errors import RuntimeUnavailable


def address() -> str:
    """DOCKER_HOST, or the socket where an engine is by default."""
    return os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"


def look() -> None:
    """Raise RuntimeUnavailable where a unix socket has no listener; others are not looked at.

    The SDK would say the same, and leave a socket open.
    """
    scheme, _, path = address().partition("://")
    if scheme != "unix":
        return
    with socket.socket(socket.AF_UNIX) as connection:
        connection.setblocking(False)
        try:
            connection.connect(path)
        except BlockingIOError:
            pass  # there is a listener, which has much to do
        except OSError as error:
            raise unanswered(error.strerror or error) from None


def unanswered(cause: object) -> RuntimeUnavailable:
    """That no engine is there, in a few words."""
    return RuntimeUnavailable(cause, address())
