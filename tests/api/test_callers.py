"""The addresses and the name by which a caller has its share."""

from __future__ import annotations

from typing import Any

import pytest

from inference_service.api import callers
from rest_bridge.proxies import Proxies

PROXIES = Proxies(["10.0.0.0/8"])


class Call:
    """A call of a peer, with metadata."""

    def __init__(self, peer: str, **metadata: str) -> None:
        self._peer = peer
        self._metadata = tuple((key.replace("_", "-"), value) for key, value in metadata.items())

    def peer(self) -> str:
        return self._peer

    def invocation_metadata(self) -> Any:
        return self._metadata


FORWARDED = {"x_forwarded_for": "9.9.9.9"}
ALL = {"x_forwarded_for": "9.9.9.9", "x_caller": "named", "authorization": "Bearer k"}


@pytest.mark.parametrize(
    ("peer", "metadata", "caller"),
    [
        pytest.param(
            "ipv4:8.8.8.8:5", {}, ("8.8.8.8", "", "ipv4:8.8.8.8"), id="an address without a key"
        ),
        pytest.param("ipv4:8.8.8.8:5", ALL, ("8.8.8.8", "", "Bearer k"), id="a key"),
        pytest.param("ipv4:10.0.0.7:5", ALL, ("9.9.9.9", "", "named"), id="a trusted proxy"),
        pytest.param(
            "ipv4:10.0.0.7:5", FORWARDED, ("9.9.9.9", "", "9.9.9.9"), id="a proxy with no name"
        ),
        pytest.param(
            "ipv4:10.0.0.7:5",
            {"x_caller": "named"},
            ("10.0.0.7", "", "named"),
            id="a proxy with no address",
        ),
        pytest.param("in-process", ALL, ("9.9.9.9", "", "named"), id="the bridge of this process"),
        pytest.param(
            "ipv4:127.0.0.1:5",
            ALL,
            ("127.0.0.1", "9.9.9.9", "named"),
            id="a bridge of this machine, whose word divides its own share",
        ),
        pytest.param("unix:", ALL, ("unix", "9.9.9.9", "named"), id="a socket of this machine"),
        pytest.param(
            "ipv6:%5B2001:db8:1:2:3:4:5:6%5D:5",
            {},
            ("2001:db8:1:2::/64", "", "ipv6:%5B2001:db8:1:2:3:4:5:6%5D"),
            id="one of many addresses that a client of IPv6 has",
        ),
        pytest.param(
            "ipv6:%5Bfe80::1%25eth0%5D:5",
            {},
            ("fe80::/64", "", "ipv6:%5Bfe80::1%25eth0%5D"),
            id="an address with a zone",
        ),
        pytest.param(
            "ipv6:%5B::ffff:8.8.8.8%5D:5",
            {},
            ("8.8.8.8", "", "ipv6:%5B::ffff:8.8.8.8%5D"),
            id="IPv4 as IPv6",
        ),
        pytest.param(
            "ipv4:10.0.0.7:5",
            {"x_forwarded_for": "2001:db8:1:2:3::9"},
            ("2001:db8:1:2::/64", "", "2001:db8:1:2:3::9"),
            id="IPv6 behind a proxy",
        ),
        pytest.param(
            "ipv4:10.0.0.7:5",
            {"x_forwarded_for": "nonsense"},
            ("10.0.0.7", "", "ipv4:10.0.0.7"),
            id="no address",
        ),
    ],
)
def test_a_caller_has_addresses_and_a_name(
    peer: str, metadata: dict[str, str], caller: tuple[str, ...]
) -> None:
    call = Call(peer, **metadata)

    assert callers.caller(call, PROXIES) == caller
    assert callers.addresses(call, PROXIES) == caller[:2]
