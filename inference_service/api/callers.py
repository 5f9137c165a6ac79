"""Who calls: an address that counts, and a name within it."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address
from typing import Any, NamedTuple
from urllib.parse import unquote

from inference_service.serving.queue import Caller
from rest_bridge.proxies import Address, Proxies, parse_address

NO_PROXIES = Proxies()

Addresses = tuple[str, str]
Entries = tuple[tuple[str, str], ...]

_READ = frozenset(("authorization", "x-caller", "x-forwarded-for"))
_LONG = 400  # characters, more than which are not kept


class _Peer(NamedTuple):
    host: str  # as gRPC has it
    own: Addresses
    local: bool
    trusted: bool  # to forward for others, as is the bridge of this process


def caller(context: Any, proxies: Proxies = NO_PROXIES) -> Caller:
    """Return the addresses of the caller, and the name within them, for fair slots.

    The name is a proxy's word, else the key, else the host. The word of a trusted proxy is
    `x-caller` or, without a key, `x-forwarded-for`. A peer of this machine may give `x-caller` too,
    for it can be a `rest-bridge`. The key is not checked here: that is for a proxy. So a name only
    divides what its addresses have.
    """
    return _found(context, proxies)


def addresses(context: Any, proxies: Proxies = NO_PROXIES) -> Addresses:
    """Return the address that counts, and the one for which an untrusted bridge here forwards.

    The address that counts is that of the peer, or, behind a trusted proxy or the bridge of this
    process, the one that is forwarded. A bridge of this machine that is not trusted may say for
    whom it calls, which divides what it has itself. A network of IPv6 (/64) counts as one address,
    for each client has a whole one.
    """
    return _found(context, proxies)[:2]


def _found(context: Any, proxies: Proxies) -> tuple[str, str, str]:
    metadata = context.invocation_metadata() or ()
    said = tuple([(key, str(value)) for key, value in metadata if key in _READ])
    peer_name = context.peer().rpartition(":")[0]
    if sum([len(value) for _, value in said]) > _LONG:
        return _caller(said, peer_name, proxies)
    return _known(said, peer_name, proxies)


def _caller(said: Entries, peer_name: str, proxies: Proxies) -> tuple[str, str, str]:
    named = dict(said)
    peer = _peer(peer_name, proxies)
    name = named.get("authorization") or peer.host
    if not (peer.local or peer.trusted):
        return (*peer.own, name)
    client = proxies.client(value for key, value in said if key == "x-forwarded-for")
    if given := named.get("x-caller"):
        name = given
    elif client and peer.trusted and "authorization" not in named:
        name = client
    return (*_addresses(peer, client), name)


_known = lru_cache(maxsize=4096)(_caller)  # most requests are of a few callers


def _addresses(peer: _Peer, client: str | None) -> Addresses:
    if not client:
        return peer.own
    network = _network(parse_address(client))
    return (network, "") if peer.trusted else (peer.own[0], network)


@lru_cache(maxsize=4096)
def _peer(host: str, proxies: Proxies) -> _Peer:
    """Return what is known of a peer by gRPC's name of it, without the port.

    Such are `ipv4:10.0.0.7`, `ipv6:%5B::1%5D`, and nothing for the bridge of this process.
    """
    address = parse_address(unquote(host.partition(":")[2]))
    own = (_network(address) if address else host, "")
    local = address.is_loopback if address else not host.startswith("ip")
    return _Peer(host, own, local, trusted=not host or address in proxies)


def _network(address: Address | None) -> str:
    if address is None or isinstance(address, IPv4Address):
        return str(address)
    return f"{type(address)(int(address) >> 64 << 64)}/64"
