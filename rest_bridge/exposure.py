"""The reach of an address to listen on."""

import socket
from ipaddress import ip_address


def warning(host: str, faces: str) -> str | None:
    """Return the sentence for an operator who serves other machines; None for this one alone.

    `faces` are a subject and its verb, such as "REST asks".
    """
    if not _beyond_loopback(host):
        return None
    return (
        f"warning: --host {host or repr(host)} lets everyone who reaches this machine over a "
        f"network start, stop and use models: {faces} for no password; listen on 127.0.0.1 behind "
        "a proxy that asks for one (docs/proxies.md), or keep strangers away by a firewall"
    )


def _beyond_loopback(host: str) -> bool:
    """Return whether a socket at this host is reached from other machines."""
    try:
        found = socket.getaddrinfo(
            host or None, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError:  # the server reports that, when it cannot listen
        return False
    return not all(ip_address(str(address[0])).is_loopback for *_, address in found)
