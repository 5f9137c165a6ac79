"""Endpoints that stream changes of models, and logs."""

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request

from inference_service.v1 import model_service_pb2 as pb
from rest_bridge import openapi
from rest_bridge.routes.request import ModelId, stream
from rest_bridge.service import STREAM_LOGS, WATCH_MODELS
from rest_bridge.sse import EventStream, change, line

router = APIRouter()


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
    model_id: Annotated[str, Query(description="Only this model. Default: all.")] = "",
    after_revision: Annotated[
        int, Query(ge=0, lt=2**63, description="Begin after this revision.")
    ] = 0,
) -> EventStream:
    """Send the state of the models, and each change, as server-sent events.

    First an event `model` for each model, then `snapshot_done`, then `model` at each change, and
    `removed_model_id` when one leaves the catalog. The id of an event is its revision: a browser's
    `EventSource` sends the last one when it connects again, and the stream goes on from there. The
    models of the first snapshot have no id.

    The stream has no end, so a page that shows whole answers shows none of it: use `curl -N`.
    """
    last = request.headers.get("last-event-id", "")
    after = int(last) if last.isascii() and last.isdecimal() and len(last) < 19 else after_revision
    message = pb.WatchModelsRequest(model_id=model_id, after_revision=after)
    return stream(request, WATCH_MODELS, message, change, early=True)


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
        int,
        Query(
            ge=0,
            lt=2**31,
            description="How many of the last lines to send first, up to 1000.",
            json_schema_extra={"maximum": 1000},
        ),
    ] = 100,
    follow: Annotated[
        bool, Query(description="Whether to send new lines too, until the engine ends.")
    ] = False,
) -> EventStream:
    """Send the log of a model's engine, an event for each line, with secrets hidden.

    It is the log of the engine that runs, or of the last one that ran or failed to start. Control
    characters stand as escapes, and a progress bar is one line.
    """
    message = pb.StreamLogsRequest(
        model_id=model_id, tail_line_count=tail_line_count, follow=follow
    )
    return stream(request, STREAM_LOGS, message, line, early=True)
