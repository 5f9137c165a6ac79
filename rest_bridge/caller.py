"""The metadata of a call: who makes it, by the headers of its request."""

import hashlib
from collections.abc import Iterable
from functools import lru_cache

from rest_bridge.proxies import Proxies, parse_address
from rest_bridge.service import Metadata

_KEYS = ("authorization", "x-api-key")
_CARRIED = ("authorization", "x-request-id")  # headers that go on to the service
_LIST = "x-forwarded-for"  # each proxy may add one
_READ = {name.encode(): name for name in (*_KEYS, *_CARRIED, "x-caller", _LIST)}
LOOKED_AT = frozenset(_READ)

_LONG = 400  # characters of a key, more than which are not kept

Entries = tuple[tuple[str, str], ...]


def metadata(address: str, headers: Iterable[tuple[bytes, bytes]], proxies: Proxies) -> Metadata:
    """Collect the metadata of a call that a client at this address makes.

    A value that gRPC cannot carry, for it is not printable ASCII, is left out.
    """
    found: dict[str, str] = {}
    for raw, value in headers:
        if (name := _READ.get(raw)) is not None:
            text = value.decode("latin-1")
            found[name] = f"{found[name]},{text}" if name == _LIST and name in found else text
    if not found:
        return Metadata(_plain(address))
    sent = [(name, found[name]) for name in _CARRIED if name in found and _carried(found[name])]
    return Metadata((*_caller(address, found, proxies), *sent))


@lru_cache(maxsize=256)
def _plain(address: str) -> Entries:
    return _named(address, address)


def _caller(address: str, found: dict[str, str], proxies: Proxies) -> Entries:
    """Name the caller and its address, so that the service can be fair between clients.

    The address is the one for which a trusted proxy forwards, or the client's. The name is that of
    a trusted proxy (`x-caller`), or a digest of the API key, or else the address.
    """
    trusted = parse_address(address) in proxies
    if trusted and _LIST in found:
        address = proxies.client([found[_LIST]]) or address
    if trusted and _carried(given := found.get("x-caller", "")):
        return _named(given, address)
    for header in _KEYS:
        if key := found.get(header):
            return _named(_digest(key) if len(key) < _LONG else _digest.__wrapped__(key), address)
    return _named(address, address)


def _named(name: str, address: str) -> Entries:
    if not address:
        return (("x-caller", name),) if name else ()
    return (("x-caller", name), ("x-forwarded-for", address))


@lru_cache(maxsize=256)
def _digest(key: str) -> str:
    return f"key {hashlib.sha256(key.encode()).hexdigest()[:16]}"


def _carried(text: str) -> bool:
    """Return whether gRPC can carry a value: printable ASCII, and not empty."""
    return bool(text) and text.isascii() and text.isprintable()
