"""The call, the caller and the model of a request."""

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from fastapi import Path
from starlette.requests import Request

from rest_bridge.disconnect import while_connected
from rest_bridge.openapi import MODEL_TO_TRY
from rest_bridge.proxies import Proxies, parse_address
from rest_bridge.service import Answer, Metadata, Method, Question, Service
from rest_bridge.sse import EventStream

ModelId = Annotated[
    str,
    Path(
        description="The id of the model, as `GET /models` lists it, or another of its names.",
        json_schema_extra={"example": MODEL_TO_TRY},
    ),
]

FORWARDED = ("authorization", "x-request-id")  # headers of a request that go on to the service


def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def answer(request: Request, method: Method[Question, Answer], message: Question) -> Answer:
    """Make a call that has one answer, for as long as the client is connected."""
    making = service_of(request).answer(method, message, metadata(request))
    return await while_connected(request.receive, making)


def stream(
    request: Request,
    method: Method[Question, Any],
    message: Question,
    encode: Callable[[Any], bytes],
    *,
    early: bool = False,
) -> EventStream:
    """Make a call that is answered with a stream, the messages of which become events."""
    call = partial(service_of(request).stream, method, message, metadata(request))
    keep_alive_seconds = request.app.state.settings.keep_alive_seconds
    return EventStream(call, encode, keep_alive_seconds, early=early)


def metadata(request: Request) -> Metadata:
    """Collect the metadata of a call.

    A value that gRPC cannot carry, for it is not printable ASCII, is left out.
    """
    sent = ((name, carried(request, name)) for name in FORWARDED)
    return Metadata((*caller(request), *((name, text) for name, text in sent if text)))


def caller(request: Request) -> tuple[tuple[str, str], ...]:
    """Name the caller and its address, so that the service can be fair between clients.

    The address is the one for which a trusted proxy forwards, or the client's. The name is that of
    a trusted proxy (`x-caller`), or a digest of the API key, or else the address.
    """
    address = request.client.host if request.client else ""
    proxies: Proxies = request.app.state.proxies
    trusted = parse_address(address) in proxies
    if trusted:
        address = proxies.client(request.headers.getlist("x-forwarded-for")) or address
    if trusted and (given := carried(request, "x-caller")):
        name = given
    elif key := request.headers.get("authorization"):
        name = f"key {hashlib.sha256(key.encode()).hexdigest()[:16]}"
    else:
        name = address
    return (("x-caller", name), ("x-forwarded-for", address)) if address else _named(name)


def _named(name: str) -> tuple[tuple[str, str], ...]:
    return (("x-caller", name),) if name else ()


def carried(request: Request, name: str) -> str | None:
    """Return a header's value if gRPC can carry it: printable ASCII, and not empty."""
    text = request.headers.get(name)
    return text if text and text.isascii() and text.isprintable() else None
