"""The reach of an address to listen on."""

import pytest

from rest_bridge import exposure


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "::1", "localhost", "no such host"])
def test_no_warning(host: str) -> None:
    assert exposure.warning(host, "REST asks") is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "0", "192.0.2.7", "2001:db8::7"])
def test_a_warning(host: str) -> None:
    warning = exposure.warning(host, "REST asks")

    assert warning is not None
    assert f"--host {host or repr('')} lets everyone" in warning
    assert "\n" not in warning
