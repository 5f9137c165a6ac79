"""The proxies whose word on a request's caller is believed.

The word is `X-Forwarded-For`. The header `Forwarded` of RFC 7239 is not read: a proxy that sets the
one passes on the other as the client wrote it, and hardly a proxy sets `Forwarded`.
"""

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

Address = IPv4Address | IPv6Address


class Proxies:
    """The addresses and networks of the setting."""

    def __init__(self, trusted: Iterable[str] = ()) -> None:
        self._networks = [ip_network(network) for network in trusted]

    def __contains__(self, address: Address | None) -> bool:
        return address is not None and any(address in network for network in self._networks)

    def client(self, forwarded: Iterable[str]) -> str | None:
        """Return the address of the client that a trusted proxy forwards for, if one is known.

        `forwarded` are the values of `X-Forwarded-For`. Each proxy adds the address of its peer at
        the right end, so the first one from there that is no trusted proxy is the client's. What is
        left of it is the client's own invention. An entry that is no address ends the list.
        """
        last = None
        for entry in reversed(",".join(forwarded).split(",")):
            address = parse_address(entry.strip())
            if address is None:
                break
            last = str(address)
            if address not in self:
                break
        return last


@lru_cache(maxsize=256)  # a service has few peers, and each request asks for its own
def parse_address(text: str) -> Address | None:
    """Parse an address, also with a port (`1.2.3.4:5`, `[::1]:5`), and None for anything else.

    An IPv4 address that a socket for both families reports (`::ffff:1.2.3.4`) becomes plain.
    """
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def trusted_proxy(text: str) -> str:
    """Return an address or network of the settings. Raises ValueError with a sentence."""
    try:
        return str(ip_network(text))
    except ValueError:
        raise ValueError(
            'must be an address or a network such as "10.0.0.7" or "10.0.0.0/8"'
        ) from None
