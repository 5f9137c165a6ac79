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

    assert service.callers[:2] == ["127.0.0.1"] * 2
    assert service.callers[2] == service.callers[3] != service.callers[4] == service.callers[5]
    assert all(str(caller).startswith("key ") for caller in service.callers[2:])
    assert "secret" not in str(service.callers)
