"""The proxies whose word on a request's caller is believed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rest_bridge.proxies import Proxies, parse_address


@given(st.lists(st.text()))
def test_no_text_makes_a_fault(forwarded: list[str]) -> None:
    client = Proxies(["10.0.0.0/8"]).client(forwarded)

    assert client is None or parse_address(client) is not None


@given(st.lists(st.sampled_from(["6.6.6.6", "10.0.0.1", "unknown", ""])))
def test_a_client_writes_before_its_own_address_in_vain(invented: list[str]) -> None:
    forwarded = [*invented, "9.9.9.9", "10.0.0.7"]

    assert Proxies(["10.0.0.0/8"]).client([",".join(forwarded)]) == "9.9.9.9"
    assert Proxies(["10.0.0.0/8"]).client(forwarded) == "9.9.9.9"


@pytest.mark.parametrize(
    ("peer", "trusted"),
    [
        *[(peer, True) for peer in ("10.255.0.1", "::1", "0:0::1", "::ffff:10.0.0.1")],
        *[(peer, False) for peer in ("11.0.0.1", "::2", "", "proxy", "10.0.0", "unix:")],
    ],
)
def test_an_address_of_a_proxy(peer: str, trusted: bool) -> None:
    assert (parse_address(peer) in Proxies(["10.0.0.0/8", "::1/128"])) is trusted
