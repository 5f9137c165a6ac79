"""The call, the caller and the model of a request."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from fastapi import Path
from starlette.requests import Request

from rest_bridge import caller
from rest_bridge.disconnect import while_connected
from rest_bridge.openapi import MODEL_TO_TRY
from rest_bridge.service import Answer, Metadata, Method, Question, Service
from rest_bridge.sse import EventStream

ModelId = Annotated[
    str,
    Path(
        description="The id of the model, as `GET /models` lists it, or another of its names.",
        json_schema_extra={"example": MODEL_TO_TRY},
    ),
]


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
    """Collect the metadata of a call."""
    address = request.client.host if request.client else ""
    return caller.metadata(address, request.scope["headers"], request.app.state.proxies)
