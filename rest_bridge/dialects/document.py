"""The endpoints in the OpenAPI document, where an application that never sees them has no route."""

import json
from typing import Any

from rest_bridge import openapi
from rest_bridge.dialects.endpoints import ENDPOINTS, Endpoint
from rest_bridge.dialects.shapes import Shape, of_service, status_of
from rest_bridge.errors import BridgeError, rule

_TAG = "Dialects"

_REASONS = (*openapi.GENERATING, "PATH_NOT_OFFERED")
_HEADS = {
    403: "Forbidden to pages of other origins",
    405: "Another method than POST",
    415: "A body that is not JSON, or compressed",
    421: "A host that is not served",
}

_ABOUT = """\
The request goes to the engine of its `model` as it is, and the engine's answer comes back as it is:
each engine has fields of its own. A model that does not run is started first. With `"stream": true`
the answer is a stream of events; after 10 s without an answer of the engine it begins with comment
lines, which tell the progress. An option that the engine would drop is refused.
"""


def paths() -> dict[str, Any]:
    """Return the `paths` of all endpoints."""
    return {endpoint.path: {"post": _operation(endpoint)} for endpoint in ENDPOINTS.values()}


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    model = {"type": "string", "minLength": 1, "example": openapi.MODEL_TO_TRY}
    schema = {
        "type": "object",
        "properties": {"model": model, **endpoint.fields},
        "required": ["model", *(endpoint.fields if endpoint.needs_fields else ())],
        "additionalProperties": True,
    }
    return {
        "tags": [_TAG],
        "summary": endpoint.summary,
        "description": _ABOUT,
        "operationId": endpoint.path.strip("/").replace("/", "_").replace("-", "_"),
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {"200": _success(endpoint)} | errors(endpoint.shape, *_REASONS),
    }


def _success(endpoint: Endpoint) -> dict[str, Any]:
    stream = "text/event-stream" if endpoint.translate is None else "application/x-ndjson"
    content = {"application/json": {"schema": {"type": "object"}}, stream: {}}
    return {"description": "The engine's answer", "content": content}


def errors(shape: Shape, *reasons: str) -> dict[int | str, dict[str, Any]]:
    """Describe the errors of a path in a dialect that can fail for these reasons."""
    examples: dict[int, dict[str, Any]] = {status: {} for status in _HEADS}
    for reason in sorted({*reasons, *openapi.EVERY_CALL}):
        error = BridgeError(reason, rule(reason).action)
        value = {"value": json.loads(of_service(shape, error))}
        examples.setdefault(status_of(error), {})[reason] = value
    found: dict[int | str, dict[str, Any]] = {
        str(status): _failure(_HEADS.get(status, "An error"), of_status)
        for status, of_status in sorted(examples.items())
    }
    return found | {"default": _failure("Any other error, of the engine or of the service", {})}


def _failure(description: str, examples: dict[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": {"type": "object"}}
    if examples:
        content["examples"] = examples
    return {
        "description": description,
        "headers": openapi.HEADERS,
        "content": {"application/json": content},
    }
