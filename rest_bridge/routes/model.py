"""The endpoint for one model."""

from fastapi import APIRouter
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import JSONResponse

from inference_service.v1 import model_service_pb2 as pb
from rest_bridge import openapi
from rest_bridge.bodies import ModelDetails
from rest_bridge.routes.request import ModelId, answer
from rest_bridge.service import GET_MODEL
from rest_bridge.sse import fields


class _Name(StringConvertor):
    """A name of a model in a path: its id, or one with a slash such as `org/name`.

    What is below a model has paths of its own.
    """

    regex = "(?![^?]*/(?:start|stop|logs)$)[^/]+(?:/[^/]+)*"


register_url_convertor("model_name", _Name())

router = APIRouter()


@router.get(
    "/models/{model_id:model_name}",
    summary="Get a model",
    tags=["Models"],
    response_model=ModelDetails,
    responses=openapi.success("MODEL") | openapi.errors("MODEL_NOT_FOUND"),
)
async def get_model(request: Request, model_id: ModelId) -> JSONResponse:
    """Show one model: its state, the progress of its start, its last error.

    The fields are those of the events `model` of `GET /models:watch`, and of `Model` in the
    contract of gRPC. Numbers of 64 bits, such as sizes in bytes, are strings.
    """
    got = await answer(request, GET_MODEL, pb.GetModelRequest(model_id=model_id))
    return JSONResponse(fields(got.model))
