"""Settings of the bridge from the environment."""

import os

import pytest

from rest_bridge import Settings
from rest_bridge.environment import unknown


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the settings of this machine's own environment."""
    for name in list(os.environ):
        if name.upper().startswith("REST_BRIDGE_"):
            monkeypatch.delenv(name)


def test_the_variables_of_kubernetes_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """It sets them in each container, for a service with the name `rest-bridge`."""
    monkeypatch.setenv("REST_BRIDGE_PORT", "tcp://10.96.0.12:8000")
    monkeypatch.setenv("REST_BRIDGE_SERVICE_HOST", "10.96.0.12")
    monkeypatch.setenv("REST_BRIDGE_SERVICE_PORT", "8000")
    monkeypatch.setenv("REST_BRIDGE_SERVICE_PORT_HTTP", "8000")
    monkeypatch.setenv("REST_BRIDGE_PORT_8000_TCP", "tcp://10.96.0.12:8000")
    monkeypatch.setenv("REST_BRIDGE_PORT_8000_TCP_ADDR", "10.96.0.12")
    monkeypatch.setenv("REST_BRIDGE_NAME", "/web/rest-bridge")  # as links of Docker do
    monkeypatch.setenv("REST_BRIDGE_ENV_LANG", "C")
    monkeypatch.setenv("REST_BRIDGE_GRPC_PORT", "tcp://10.96.0.12:50051")

    assert Settings().port == 8000
    assert unknown(Settings) == []


def test_a_number_is_a_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REST_BRIDGE_PORT", "9000")

    assert Settings().port == 9000


@pytest.mark.parametrize("name", [*Settings.model_fields])
def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"REST_BRIDGE_{name.upper()}", "")

    assert Settings() == Settings.model_construct()


def test_a_variable_that_is_no_setting_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REST_BRIDGE_TARGETT", "127.0.0.1:50051")
    monkeypatch.setenv("rest_bridge_host", "127.0.0.1")
    monkeypatch.setenv("REST_BRIDGE_XYZ", "9")

    assert unknown(Settings) == [
        "rest-bridge: warning: REST_BRIDGE_TARGETT is no setting; did you mean REST_BRIDGE_TARGET?",
        "rest-bridge: warning: REST_BRIDGE_XYZ is no setting",
    ]
