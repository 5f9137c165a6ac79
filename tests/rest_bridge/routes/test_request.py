"""The service, the caller and the model of a request."""

import pytest

from tests.rest_bridge.conftest import Bridge
from tests.rest_bridge.scripted import ScriptedService


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_pages_of_other_origins_start_nothing(
    bridge: Bridge, service: ScriptedService, site: str
) -> None:
    for action in ("start", "stop"):
        response = await bridge.client.post(
            f"/models/gpt-2/{action}", headers={"Sec-Fetch-Site": site}
        )
        assert response.status_code == 403
    assert service.received == []


async def test_the_documentation_page_may_start_models(bridge: Bridge) -> None:
    headers = {"Sec-Fetch-Site": "same-origin"}
    response = await bridge.client.post("/models/gpt-2/start", headers=headers)
    assert response.status_code == 200


async def test_a_caller_is_named_by_a_digest_of_the_key_or_by_the_address(
    bridge: Bridge, service: ScriptedService
) -> None:
    body = {"model_id": "gpt-2", "prompt": "Hello"}
    for headers in ({}, {"Authorization": "Bearer secret"}, {"Authorization": "Bearer other"}):
        for path in ("/generate", "/generate_stream"):
            await bridge.client.post(path, json=body, headers=headers)

    callers = [metadata["x-caller"] for metadata in service.metadata]
    assert callers[:2] == ["127.0.0.1"] * 2
    assert callers[2] == callers[3] != callers[4] == callers[5]
    assert all(str(caller).startswith("key ") for caller in callers[2:])
    assert "secret" not in str(callers)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/models"),
        ("GET", "/models:watch"),
        ("GET", "/models/gpt-2/logs"),
        ("POST", "/models/gpt-2/start"),
        ("POST", "/models/gpt-2/stop"),
        ("POST", "/catalog:reload"),
        ("POST", "/generate"),
        ("POST", "/generate_stream"),
    ],
)
async def test_credentials_and_the_id_of_a_request_go_on_with_each_call(
    bridge: Bridge, service: ScriptedService, method: str, path: str
) -> None:
    """Gateways lose them on some of their routes (flyte#5563, grpc-graphql-gateway#43)."""
    headers = {"AUTHORIZATION": "Bearer secret", "X-Request-ID": "abc-7", "X-Other": "no"}
    await bridge.client.request(
        method, path, json={"model_id": "gpt-2", "prompt": "Hello"}, headers=headers
    )

    metadata = service.metadata[0]
    assert (metadata["authorization"], metadata["x-request-id"]) == ("Bearer secret", "abc-7")
    assert metadata["x-forwarded-for"] == "127.0.0.1"
    assert str(metadata["x-caller"]).startswith("key ")
    assert "x-other" not in metadata


@pytest.mark.parametrize("value", ["Bearer é", "Bearer \t a", "\xff", "a" * 20_000])
async def test_no_value_of_a_header_makes_a_request_fail(
    bridge: Bridge, service: ScriptedService, value: str
) -> None:
    """gRPC carries printable ASCII alone (grpc-gateway#3197), and not much (grpc#37852)."""
    for name in (b"authorization", b"x-request-id"):
        headers = [(name, value.encode("latin-1"))]
        assert (await bridge.client.get("/models", headers=headers)).status_code == 200
        response = await bridge.client.post(
            "/generate_stream", json={"model_id": "gpt-2", "prompt": "Hello"}, headers=headers
        )
        assert response.status_code == 200


async def test_a_head_of_more_than_64_kib_is_refused(bridge: Bridge) -> None:
    """gRPC carries more, so that the answer is the same with and without a wire."""
    response = await bridge.client.get("/models", headers={"authorization": "a" * 200_000})

    assert response.status_code == 431
    assert "65536 bytes" in response.json()["detail"]
