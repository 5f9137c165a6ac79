"""Endpoints that generate a text."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request

from inference_service.v1 import model_service_pb2 as pb
from rest_bridge import openapi
from rest_bridge.bodies import (
    GenerateRequest,
    GenerateResponse,
    GenerateStreamRequest,
    Generation,
)
from rest_bridge.body import read_json
from rest_bridge.errors import BridgeError
from rest_bridge.routes.request import answer, stream
from rest_bridge.service import GENERATE, GENERATE_STREAM
from rest_bridge.sse import EventStream, event

router = APIRouter()


@router.post(
    "/generate",
    summary="Generate text",
    tags=["Generation"],
    response_model=GenerateResponse,
    responses=openapi.text_or_events()
    | openapi.errors(*openapi.GENERATING, of_bridge=openapi.NOT_JSON),
    openapi_extra=openapi.body(GenerateRequest),
)
async def generate(request: Request) -> GenerateResponse | EventStream:
    """Generate a text. A model that does not run is started first, which can take minutes.

    With `"stream": true` the answer is that of `POST /generate_stream`.
    """
    body = await read_json(request, GenerateRequest)
    if body.stream:
        if body.return_full_text:
            raise BridgeError("INVALID_PARAMETER", "return_full_text cannot be true with stream")
        return events(request, body, without={"stream", "return_full_text"})
    message = pb.GenerateRequest(**given_fields(body, without={"stream"}))
    made = await answer(request, GENERATE, message)
    return GenerateResponse(generated_text=made.generated_text, model_id=made.model_id)


@router.post(
    "/generate_stream",
    summary="Generate text as a stream of events",
    tags=["Streams"],
    response_class=EventStream,
    status_code=200,
    responses=openapi.EVENTS | openapi.errors(*openapi.GENERATING, of_bridge=openapi.NOT_JSON),
    openapi_extra=openapi.body(GenerateStreamRequest),
)
async def generate_stream(request: Request) -> EventStream:
    """Generate a text and send each new part at once, as server-sent events.

    - `status`, with `status_events`: the progress of the model until it is ready.
    - `chunk`: more text, without the prompt.
    - `resumption`, with `resume`: the engine was lost, and the text goes on with another.
    - `summary`: the end of a text, once and last.
    - `error`: a failure after the first event, with `detail` and `reason`. An earlier failure has
      its own HTTP status.
    """
    return events(request, await read_json(request, GenerateStreamRequest), without=set())


def events(request: Request, body: Generation, *, without: set[str]) -> EventStream:
    """Answer with the events of a text. An error before the first event keeps its HTTP status."""
    message = pb.GenerateStreamRequest(**given_fields(body, without=without))
    return stream(request, GENERATE_STREAM, message, event)


def given_fields(body: Generation, *, without: set[str]) -> dict[str, Any]:
    """Collect the fields that the client gave; the service has defaults for the others."""
    return body.model_dump(exclude_none=True, exclude=without)
