"""Settings of the bridge from the environment."""

import pytest

from rest_bridge import Settings


def test_the_variables_of_kubernetes_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """It sets them in each container, for a service with the name `rest-bridge`."""
    monkeypatch.setenv("REST_BRIDGE_PORT", "tcp://10.96.0.12:8000")
    monkeypatch.setenv("REST_BRIDGE_SERVICE_HOST", "10.96.0.12")
    monkeypatch.setenv("REST_BRIDGE_SERVICE_PORT", "8000")
    monkeypatch.setenv("REST_BRIDGE_PORT_8000_TCP", "tcp://10.96.0.12:8000")

    assert Settings().port == 8000


def test_a_number_is_a_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REST_BRIDGE_PORT", "9000")

    assert Settings().port == 9000
