"""The service, the caller and the model of a request."""

import hashlib
from typing import Annotated

from fastapi import Path
from starlette.requests import Request

from rest_bridge.errors import BridgeError
from rest_bridge.service import Service

ModelId = Annotated[
    str, Path(description="The id of the model, as `GET /models` lists it.", examples=["gpt-2"])
]


def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def refuse_other_sites(request: Request) -> None:
    """Refuse a request that a page of another site sent; browsers mark those.

    They let such a page send a POST without a body here without a preflight request (CORS).
    """
    if request.headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        detail = "a page of another origin may not start or stop models"
        raise BridgeError("INVALID_PARAMETER", detail, http_status=403)


def caller(request: Request) -> tuple[tuple[str, str], ...]:
    """Name the caller, so that the service can be fair between clients.

    The name is a digest of the API key, or else the client's address.
    """
    if key := request.headers.get("authorization"):
        return (("x-caller", f"key {hashlib.sha256(key.encode()).hexdigest()[:16]}"),)
    return (("x-caller", request.client.host),) if request.client else ()
