"""The addresses on which gRPC and REST listen."""

from __future__ import annotations

import errno
import os
import socket

UNIX = "unix:"


class BindError(Exception):
    """An address of the settings that cannot be listened on."""


def bound(name: str, host: str, port: int) -> socket.socket:
    """Return a socket that listens. Raises BindError, which names the flag at fault."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:  # the second for a name that IDNA does not have
        raise BindError(_refusal(name, host, port, error)) from None
    # Else the body of an answer waits 40 ms for the client's delayed acknowledgement of its head:
    # asyncio sets this only on sockets that say IPPROTO_TCP, and those of `create_server` do not.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _refusal(name: str, host: str, port: int, error: OSError | UnicodeError) -> str:
    number = getattr(error, "errno", None) or 0
    if isinstance(error, UnicodeError) or number < 0:  # of getaddrinfo
        flag, cause = "--host", "no address is known by that name"
    elif number == errno.EADDRNOTAVAIL:
        flag, cause = "--host", "this machine does not have that address"
    else:
        flag = f"--{name.lower()}-port"
        cause = os.strerror(number) if number else str(error)
    return f"{name} cannot listen on {address(host, port)} ({cause}); choose another {flag}"


def address(host: str, port: int) -> str:
    """Return host and port as one text; a unix socket has no port."""
    if host.startswith(UNIX):
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
