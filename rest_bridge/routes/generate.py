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
from rest_bridge.routes.request import caller, service_of
from rest_bridge.sse import EventStream, event

router = APIRouter()


@router.post(
    "/generate",
    summary="Generate text",
    tags=["Generation"],
    response_model=GenerateResponse,
    responses=openapi.success("GENERATE")
    | openapi.errors(*openapi.GENERATING, of_bridge=openapi.NOT_JSON),
    openapi_extra=openapi.body(GenerateRequest),
)
async def generate(request: Request) -> GenerateResponse | EventStream:
    """Generates a text. Starts the model when it does not run, which can take minutes.

    With `"stream": true` the answer is that of `POST /generate_stream`.
    """
    body = await read_json(request, GenerateRequest)
    if body.stream:
        if body.return_full_text:
            raise BridgeError("INVALID_PARAMETER", "return_full_text cannot be true with stream")
        return stream(request, body, without={"stream", "return_full_text"})
    service = service_of(request)
    fields = set_fields(body, without={"stream"})
    call = service.stub.Generate(pb.GenerateRequest(**fields), metadata=caller(request))
    answer = await service.answer(request, call)
    return GenerateResponse(generated_text=answer.generated_text, model_id=answer.model_id)


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
    """Generates a text and sends it as it is made, as server-sent events.

    `status` (when `status_events` is set): what the model does until it is ready. `chunk`: more
    text, without the prompt. `summary`: the end, exactly once and last. `error`: the end of a
    stream that failed after its first event, with `detail` and `reason`; a failure before it is
    answered with its own HTTP status.
    """
    return stream(request, await read_json(request, GenerateStreamRequest), without=set())


def stream(request: Request, body: Generation, *, without: set[str]) -> EventStream:
    service = service_of(request)
    fields = set_fields(body, without=without)
    call = service.stub.GenerateStream(pb.GenerateStreamRequest(**fields), metadata=caller(request))
    return EventStream(service, call, event, request.app.state.settings.keep_alive_seconds)


def set_fields(body: Generation, *, without: set[str]) -> dict[str, Any]:
    """The fields that were given: the service has the defaults of the others."""
    return body.model_dump(exclude_none=True, exclude=without)
