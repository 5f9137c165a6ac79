"""The models in the JSON of Ollama, for clients that speak nothing else."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request

from inference_service.v1 import model_service_pb2 as pb
from rest_bridge import body
from rest_bridge.dialects import document
from rest_bridge.dialects.ollama.requests import Show, read
from rest_bridge.dialects.shapes import OLLAMA
from rest_bridge.routes.request import answer
from rest_bridge.service import GET_MODEL, LIST_MODELS

router = APIRouter()

# Of the API that is followed here: clients refuse a server of Ollama's that is too old for them.
VERSION = "0.12.6"

_EPOCH = "1970-01-01T00:00:00Z"  # nothing knows when a model was made
_NEVER = "9999-12-31T23:59:59Z"
_CAPABILITIES = {
    "/v1/chat/completions": "completion",
    "/v1/completions": "completion",
    "/v1/embeddings": "embedding",
}

Json = dict[str, Any]


@router.get(
    "/api/version",
    summary="Get the version of Ollama's API",
    tags=["Dialects"],
    responses=document.errors(OLLAMA),
)
async def get_version() -> Json:
    """Show which version of Ollama's API is followed."""
    return {"version": VERSION}


@router.get(
    "/api/tags",
    summary="List models, in Ollama's JSON",
    tags=["Dialects"],
    responses=document.errors(OLLAMA),
)
async def list_tags(request: Request) -> Json:
    """List the models of the catalog. What is not known of a model is empty or 0."""
    return {"models": [_tag(model) for model in await _models(request)]}


@router.get(
    "/api/ps",
    summary="List models that run, in Ollama's JSON",
    tags=["Dialects"],
    responses=document.errors(OLLAMA),
)
async def list_running(request: Request) -> Json:
    """List the models that run."""
    return {"models": [_running(model) for model in await _models(request) if model.running]}


@router.post(
    "/api/show",
    summary="Show a model, in Ollama's JSON",
    tags=["Dialects"],
    responses=document.errors(OLLAMA, "MODEL_NOT_FOUND", "INVALID_PARAMETER"),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "properties": {"model": {"type": "string"}},
                        "required": ["model"],
                    }
                }
            },
        }
    },
)
async def show(request: Request) -> Json:
    """Show what a model can do, and its context."""
    asked = read(await body.read(request), Show)
    got = await answer(request, GET_MODEL, pb.GetModelRequest(model_id=asked.model or asked.name))
    model = got.model
    capabilities = [_CAPABILITIES[path] for path in model.paths if path in _CAPABILITIES]
    return {
        "modelfile": "",
        "parameters": "",
        "template": "",
        "details": _details(model),
        "model_info": {
            "general.architecture": model.engine,
            f"{model.engine}.context_length": model.context_length,
        },
        "capabilities": [*dict.fromkeys(capabilities)],
        "modified_at": _EPOCH,
    }


async def _models(request: Request) -> list[pb.Model]:
    return [*(await answer(request, LIST_MODELS, pb.ListModelsRequest())).models]


def _tag(model: pb.Model) -> Json:
    return {
        "name": model.id,
        "model": model.id,
        "modified_at": _EPOCH,
        "size": model.memory_bytes,
        "digest": "",
        "details": _details(model),
    }


def _running(model: pb.Model) -> Json:
    expires = model.expire_time.ToJsonString() if model.HasField("expire_time") else _NEVER
    made = _tag(model) | {"expires_at": expires, "size_vram": model.gpu_memory_bytes}
    return made | {"context_length": model.context_length}


def _details(model: pb.Model) -> Json:
    return {
        "parent_model": "",
        "format": "",
        "family": model.engine,
        "families": [model.engine],
        "parameter_size": "",
        "quantization_level": "",
    }
