"""Liveness and readiness."""

from grpc_health.v1 import health, health_pb2

from rest_bridge import Settings, create_app
from tests.rest_bridge.conftest import Bridge
from tests.rest_bridge.loopback import free_port, open_client, open_remote, serve_http


async def test_ready_while_the_service_serves(
    bridge: Bridge, health_service: health.aio.HealthServicer
) -> None:
    states = health_pb2.HealthCheckResponse
    for state, status in [(states.SERVING, 200), (states.NOT_SERVING, 503), (states.SERVING, 200)]:
        await health_service.set("", state)
        response = await bridge.client.get("/readyz")
        assert response.status_code == status
        assert (await bridge.client.get("/healthz")).status_code == 200
    assert response.json() == {"status": "ready"}


async def test_alive_but_not_ready_without_the_service() -> None:
    settings = Settings(target=f"127.0.0.1:{free_port()}")
    async with (
        open_remote(settings.target) as remote,
        serve_http(create_app(remote, settings)) as url,
        open_client(url) as client,
    ):
        assert (await client.get("/healthz")).json() == {"status": "ok"}
        response = await client.get("/readyz")
    assert response.status_code == 503
    assert response.json() == {"detail": f"the service at {settings.target} is not serving"}
