"""Probes of liveness and readiness, which are not part of the documented API."""

from fastapi import APIRouter
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from starlette.requests import Request

from rest_bridge.errors import BridgeError
from rest_bridge.service import CHECK_HEALTH, Metadata, Service

READY_TIMEOUT_SECONDS = 2.0

router = APIRouter(include_in_schema=False)


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Answer 200 while this process runs."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(request: Request) -> dict[str, str]:
    """Answer 200 while the service behind the bridge serves, 503 otherwise."""
    service: Service = request.app.state.service
    if not await is_ready(service):
        raise BridgeError("SERVICE_UNREACHABLE", f"the service at {service.target} is not serving")
    return {"status": "ready"}


async def is_ready(service: Service) -> bool:
    """Check whether the service answers with SERVING."""
    metadata = Metadata(timeout=READY_TIMEOUT_SECONDS)
    try:
        answer = await service.answer(CHECK_HEALTH, HealthCheckRequest(), metadata)
    except BridgeError:
        return False
    serving: bool = answer.status == HealthCheckResponse.SERVING
    return serving
