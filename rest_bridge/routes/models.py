"""Endpoints for the models of the catalog."""

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import JSONResponse

from inference_service.v1 import model_service_pb2 as pb
from rest_bridge import openapi
from rest_bridge.bodies import (
    InfoResponse,
    ModelResponse,
    ModelsResponse,
    ReloadResponse,
    StartResponse,
    StopResponse,
)
from rest_bridge.routes.request import ModelId, answer
from rest_bridge.service import GET_INFO, LIST_MODELS, RELOAD_CATALOG, START_MODEL, STOP_MODEL
from rest_bridge.sse import fields

router = APIRouter()


@router.get(
    "/",
    summary="Get API info",
    tags=["Models"],
    responses=openapi.success("INFO") | openapi.errors(),
)
async def get_info(request: Request) -> InfoResponse:
    """Show the name of this API, the models, and which of them run."""
    info = await answer(request, GET_INFO, pb.GetInfoRequest())
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
    """List all models of the catalog, and whether they run."""
    listed = await answer(request, LIST_MODELS, pb.ListModelsRequest())
    return ModelsResponse(
        models=[
            ModelResponse(id=m.id, name=m.name, hf_name=m.hf_name, running=m.running)
            for m in listed.models
        ]
    )


@router.post(
    "/models/{model_id:path}/start",
    summary="Start model container",
    tags=["Models"],
    response_model=StartResponse,
    responses=openapi.success("START")
    | openapi.errors(*openapi.STARTING, of_bridge=openapi.OTHER_SITE),
)
async def start_model(
    request: Request,
    model_id: ModelId,
    no_wait: Annotated[
        bool, Query(description="Answer at once, and with the field `model` too.")
    ] = False,
    validate_only: Annotated[
        bool, Query(description="Start nothing, and answer with the fields `model` and `plan` too.")
    ] = False,
) -> StartResponse | JSONResponse:
    """Start a model and answer when the model is ready.

    The answer comes at once when the model runs already. The first start downloads an image and
    weights, which can take many minutes. A start goes on when the client disconnects. With
    `no_wait`, `GET /models/{model_id}` shows how far the start is. With `validate_only`, the plan
    says what a start would take, and which models it would evict.
    """
    message = pb.StartModelRequest(model_id=model_id, no_wait=no_wait, validate_only=validate_only)
    started = await answer(request, START_MODEL, message)
    shown = StartResponse(
        message=started.message, port=started.port, container_name=started.container_name
    )
    if not no_wait and not validate_only:
        return shown
    more = {"model": fields(started.model)}
    if validate_only:
        more["plan"] = fields(started.plan)
    return JSONResponse(shown.model_dump() | more)


@router.post(
    "/models/{model_id:path}/stop",
    summary="Stop model container",
    tags=["Models"],
    responses=openapi.success("STOP")
    | openapi.errors(*openapi.STOPPING, of_bridge=openapi.OTHER_SITE),
)
async def stop_model(request: Request, model_id: ModelId) -> StopResponse:
    """Stop a model and answer when its container is gone. Requests that run may finish first."""
    stopped = await answer(request, STOP_MODEL, pb.StopModelRequest(model_id=model_id))
    return StopResponse(message=stopped.message)


@router.post(
    "/catalog:reload",
    summary="Reload the catalog",
    tags=["Models"],
    responses=openapi.success("RELOAD")
    | openapi.errors("CATALOG_INVALID", of_bridge=openapi.OTHER_SITE),
)
async def reload_catalog(request: Request) -> ReloadResponse:
    """Read the catalog's file again and put the catalog into force.

    A model is drained and started again only when a change of its entry concerns its engine. A file
    with a mistake changes nothing.
    """
    reloaded = await answer(request, RELOAD_CATALOG, pb.ReloadCatalogRequest())
    return ReloadResponse.model_validate(reloaded, from_attributes=True)
