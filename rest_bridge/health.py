"""Probes of liveness and readiness, which are not part of the documented API."""

from fastapi import APIRouter
from starlette.requests import Request

from rest_bridge.errors import BridgeError
from rest_bridge.service import Service

router = APIRouter(include_in_schema=False)


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Answer 200 while this process runs."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(request: Request) -> dict[str, str]:
    """Answer 200 while the service behind the bridge serves, 503 otherwise."""
    service: Service = request.app.state.service
    if not await service.is_ready():
        raise BridgeError("SERVICE_UNREACHABLE", f"the service at {service.target} is not serving")
    return {"status": "ready"}
