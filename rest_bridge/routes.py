"""The documented endpoints; each is one call of the service."""

import hashlib
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query
from starlette.requests import Request

from inference_service.v1 import model_service_pb2 as pb
from rest_bridge import openapi
from rest_bridge.bodies import (
    GenerateRequest,
    GenerateResponse,
    GenerateStreamRequest,
    Generation,
    InfoResponse,
    ModelResponse,
    ModelsResponse,
    ReloadResponse,
    StartResponse,
    StopResponse,
)
from rest_bridge.body import read_json
from rest_bridge.errors import BridgeError
from rest_bridge.service import Service
from rest_bridge.sse import EventStream, change, event, line

router = APIRouter()

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


def set_fields(body: Generation, *, without: set[str]) -> dict[str, Any]:
    """The fields that were given: the service has the defaults of the others."""
    return body.model_dump(exclude_none=True, exclude=without)


@router.get(
    "/",
    summary="Get API info",
    tags=["Models"],
    responses=openapi.success("INFO") | openapi.errors(),
)
async def get_info(request: Request) -> InfoResponse:
    """Says what this API is, which models there are, and which of them run."""
    service = service_of(request)
    info = await service.answer(request, service.stub.GetInfo(pb.GetInfoRequest()))
    return InfoResponse(
        message=info.message,
        models=list(info.models),
        running_containers=list(info.running_containers),
    )


@router.get(
    "/models",
    summary="List available models",
    tags=["Models"],
    responses=openapi.success("MODELS") | openapi.errors(),
)
async def list_models(request: Request) -> ModelsResponse:
    """Lists all models of the catalog, and whether they run."""
    service = service_of(request)
    answer = await service.answer(request, service.stub.ListModels(pb.ListModelsRequest()))
    return ModelsResponse(
        models=[
            ModelResponse(id=m.id, name=m.name, hf_name=m.hf_name, running=m.running)
            for m in answer.models
        ]
    )


@router.get(
    "/models:watch",
    summary="Watch models",
    tags=["Streams"],
    response_class=EventStream,
    status_code=200,
    responses=openapi.CHANGES | openapi.errors("MODEL_NOT_FOUND", "INVALID_PARAMETER"),
)
async def watch_models(
    request: Request,
    model_id: Annotated[str, Query(description="This model alone; default: all.")] = "",
    after_revision: Annotated[int, Query(ge=0, lt=2**63, description="Go on after it.")] = 0,
) -> EventStream:
    """Tells what happens to the models, as server-sent events.

    First an event `model` for each as it is, then `snapshot_done`, then `model` at each change. The
    id of an event is its revision: a browser's `EventSource` sends the last one when it connects
    again, and no change is lost.
    """
    last = request.headers.get("last-event-id", "")
    after = int(last) if last.isascii() and last.isdecimal() and len(last) < 19 else after_revision
    service = service_of(request)
    call = service.stub.WatchModels(pb.WatchModelsRequest(model_id=model_id, after_revision=after))
    return EventStream(service, call, change, request.app.state.settings.keep_alive_seconds)


@router.get(
    "/models/{model_id:path}/logs",
    summary="Read a model's log",
    tags=["Streams"],
    response_class=EventStream,
    status_code=200,
    responses=openapi.LINES
    | openapi.errors("MODEL_NOT_FOUND", "CONTAINER_NOT_RUNNING", "INVALID_PARAMETER"),
)
async def stream_logs(
    request: Request,
    model_id: ModelId,
    tail_line_count: Annotated[
        int, Query(ge=0, lt=2**31, description="The last lines to begin with, up to 1000.")
    ] = 100,
    follow: Annotated[bool, Query(description="Go on with new lines.")] = False,
) -> EventStream:
    """Tells what the engine of a model has written, one line an event, secrets hidden.

    The engine is the one that runs, or the last one that ran or failed to start.
    """
    service = service_of(request)
    call = service.stub.StreamLogs(
        pb.StreamLogsRequest(model_id=model_id, tail_line_count=tail_line_count, follow=follow)
    )
    return EventStream(service, call, line, request.app.state.settings.keep_alive_seconds)


@router.post(
    "/models/{model_id:path}/start",
    summary="Start model container",
    tags=["Models"],
    dependencies=[Depends(refuse_other_sites)],
    responses=openapi.success("START")
    | openapi.errors(*openapi.STARTING, of_bridge=openapi.OTHER_SITE),
)
async def start_model(request: Request, model_id: ModelId) -> StartResponse:
    """Starts a model and answers when it is ready; at once, when it runs already.

    The first start downloads an image and weights and can take many minutes. It goes on when the
    client does not wait for it.
    """
    service = service_of(request)
    call = service.stub.StartModel(pb.StartModelRequest(model_id=model_id))
    answer = await service.answer(request, call)
    return StartResponse(
        message=answer.message, port=answer.port, container_name=answer.container_name
    )


@router.post(
    "/models/{model_id:path}/stop",
    summary="Stop model container",
    tags=["Models"],
    dependencies=[Depends(refuse_other_sites)],
    responses=openapi.success("STOP")
    | openapi.errors(*openapi.STOPPING, of_bridge=openapi.OTHER_SITE),
)
async def stop_model(request: Request, model_id: ModelId) -> StopResponse:
    """Stops a model and answers when its container is gone. Requests that run may finish first."""
    service = service_of(request)
    call = service.stub.StopModel(pb.StopModelRequest(model_id=model_id))
    answer = await service.answer(request, call)
    return StopResponse(message=answer.message)


@router.post(
    "/catalog:reload",
    summary="Reload the catalog",
    tags=["Models"],
    dependencies=[Depends(refuse_other_sites)],
    responses=openapi.success("RELOAD")
    | openapi.errors("CATALOG_INVALID", of_bridge=openapi.OTHER_SITE),
)
async def reload_catalog(request: Request) -> ReloadResponse:
    """Reads the catalog's file again and puts it into force.

    Only models whose entry changed in a way that their engine must know are drained and started
    again. A file with a mistake changes nothing.
    """
    service = service_of(request)
    call = service.stub.ReloadCatalog(pb.ReloadCatalogRequest())
    answer = await service.answer(request, call)
    return ReloadResponse.model_validate(answer, from_attributes=True)


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
