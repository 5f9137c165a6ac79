"""The list of models in the JSON of OpenAI and of Anthropic, whose SDKs ask for it."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request

from inference_service.v1 import model_service_pb2 as pb
from rest_bridge.dialects import document
from rest_bridge.dialects.shapes import OPENAI
from rest_bridge.routes.request import ModelId, answer
from rest_bridge.service import GET_MODEL, LIST_MODELS

router = APIRouter()

_OWNER = "inference-service"
_EPOCH = "1970-01-01T00:00:00Z"  # nothing knows when a model was made


@router.get(
    "/v1/models",
    summary="List models, in OpenAI's JSON",
    tags=["Dialects"],
    responses=document.errors(OPENAI),
)
async def list_named(request: Request) -> dict[str, Any]:
    """List the models, each by its id. With the header `anthropic-version`, in Anthropic's JSON."""
    models = (await answer(request, LIST_MODELS, pb.ListModelsRequest())).models
    if _is_anthropic(request):
        data = [_of_anthropic(model) for model in models]
        ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {}
        return {"data": data, "has_more": False, **ends}
    return {"object": "list", "data": [_of_openai(model) for model in models]}


@router.get(
    "/v1/models/{model_id:path}",
    summary="Get a model, in OpenAI's JSON",
    tags=["Dialects"],
    responses=document.errors(OPENAI, "MODEL_NOT_FOUND"),
)
async def get_named(request: Request, model_id: ModelId) -> dict[str, Any]:
    """Show one model. With the header `anthropic-version`, in Anthropic's JSON."""
    got = await answer(request, GET_MODEL, pb.GetModelRequest(model_id=model_id))
    return _of_anthropic(got.model) if _is_anthropic(request) else _of_openai(got.model)


def _is_anthropic(request: Request) -> bool:
    return "anthropic-version" in request.headers


def _of_openai(model: pb.Model) -> dict[str, Any]:
    return {"id": model.id, "object": "model", "created": 0, "owned_by": _OWNER}


def _of_anthropic(model: pb.Model) -> dict[str, Any]:
    return {"type": "model", "id": model.id, "display_name": model.name, "created_at": _EPOCH}
