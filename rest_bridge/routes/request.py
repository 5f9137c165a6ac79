"""What the endpoints take from a request."""

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
    """A page of another site may send a POST without a body here; its browser says so."""
    if request.headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        detail = "a page of another origin may not start or stop models"
        raise BridgeError("INVALID_PARAMETER", detail, http_status=403)


def caller(request: Request) -> tuple[tuple[str, str], ...]:
    """Who asks, so that the service can be fair between the clients of this bridge.

    That is an API key, of which only a digest goes further, or else an address.
    """
    if key := request.headers.get("authorization"):
        return (("x-caller", f"key {hashlib.sha256(key.encode()).hexdigest()[:16]}"),)
    return (("x-caller", request.client.host),) if request.client else ()
