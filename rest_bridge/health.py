"""Probes for whatever watches the bridge; not part of the documented API."""

from fastapi import APIRouter
from starlette.requests import Request

from rest_bridge.errors import BridgeError
from rest_bridge.service import Service

router = APIRouter(include_in_schema=False)


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Answers while this process does."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(request: Request) -> dict[str, str]:
    """Answers 200 when the service behind the bridge serves, 503 otherwise."""
    service: Service = request.app.state.service
    if not await service.is_ready():
        raise BridgeError("SERVICE_UNREACHABLE", f"the service at {service.target} is not serving")
    return {"status": "ready"}
