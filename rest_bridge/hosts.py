"""The hosts at which this API may be called.

A page of `evil.example` can make its own name resolve to an address of this machine. Its browser
then takes this API for a part of that page, and lets the page read every answer (DNS rebinding).
Only the Host header differs. So a name is served only where no stranger can make the name resolve:
an IP address is no name, nobody can register `localhost` or a name below `.internal`, and the other
names are those of this machine and of its operator.

A name without a dot, such as `llm` between containers, is none of these: resolvers complete it with
the search domain of the network that a laptop is in, and answer it by multicast (LLMNR) too.
"""

import re
import socket
from collections.abc import Iterable
from functools import cache
from ipaddress import ip_address
from threading import Thread
from typing import NamedTuple

ANY = "*"

_AUTHORITY = re.compile(
    r"(?:\[(?P<v6>[0-9A-Za-z:.%]+)\]|(?P<name>[\w.-]{1,254}))(?::(?P<port>\d{0,5}))?", re.A
)
_NAME = re.compile(r"(\*\.)?[\w-]+(\.[\w-]+)*", re.A)
_RESERVED = (".localhost", ".internal")  # RFC 6761, and ICANN's resolution 2024.07.29.06


class Authority(NamedTuple):
    """A host in normal form, and the port if one was given."""

    host: str
    port: int | None

    @classmethod
    def parse(cls, text: str) -> "Authority | None":
        """Parse the value of a Host header, or what follows the scheme of an origin."""
        found = _AUTHORITY.fullmatch(text)
        if found is None:
            return None
        host = (found["v6"] or found["name"]).lower().removesuffix(".")
        if found["v6"] is not None:
            try:
                host = str(ip_address(host))
            except ValueError:
                return None
        return cls(host, int(found["port"]) if found["port"] else None) if host else None


class Hosts:
    """The hosts that are served, among them those that the operator allows.

    `*.example.org` allows the names below `example.org`, and `*` every name.
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        names = set(allowed)
        self._any = ANY in names
        _full_names()  # so that they are known by the first request
        self._names = {"localhost", *names}
        self._suffixes = (*_RESERVED, *(name[1:] for name in names if name.startswith("*.")))

    def __contains__(self, authority: Authority) -> bool:
        host = authority.host
        return (
            self._any
            or host in self._names
            or (host.endswith(self._suffixes) and not host.startswith("."))
            or _is_address(host)
            or host in own_names()
        )


def allowed_host(text: str) -> str:
    """Return a host of the settings in normal form. Raises ValueError with a sentence."""
    host = text.lower().removesuffix(".")
    if host == ANY or _is_address(host.strip("[]")) or _NAME.fullmatch(host):
        return host.strip("[]")
    raise ValueError(
        'must be a host such as "llm.example.org", "*.example.org" or "*", without scheme and port'
    )


def own_names() -> set[str]:
    """Return the names of this machine: short, below `.local` (multicast DNS), and in full."""
    name = socket.gethostname().lower()
    short = name.partition(".")[0]
    # The network can answer the search for the full name. It may add a domain, and no other name.
    full = {name for name in _full_names() if name.startswith(f"{short}.")}
    return {name, short, f"{short}.local"} | full


@cache
def _full_names() -> list[str]:
    """Return the list that gets this machine's full name, as soon as the resolver answers."""
    names: list[str] = []
    # A resolver without network takes many seconds, and nothing waits for the answer.
    Thread(target=lambda: names.append(socket.getfqdn().lower()), daemon=True).start()
    return names


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
