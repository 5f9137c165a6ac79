"""The endpoints in the OpenAPI document, where an application that never sees them has no route."""

import json
from typing import Any

from rest_bridge import openapi
from rest_bridge.dialects.endpoints import ENDPOINTS, Endpoint
from rest_bridge.dialects.shapes import Shape, of_service, status_of
from rest_bridge.errors import BridgeError, rule

_TAG = "Dialects"

_REASONS = {*openapi.GENERATING, *openapi.EVERY_CALL, "PATH_NOT_OFFERED"}
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
    schema = {
        "type": "object",
        "properties": {"model": {"type": "string", "example": openapi.MODEL_TO_TRY}},
        "required": ["model"],
        "additionalProperties": True,
    }
    return {
        "tags": [_TAG],
        "summary": endpoint.summary,
        "description": _ABOUT,
        "operationId": endpoint.path.strip("/").replace("/", "_").replace("-", "_"),
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {"200": _success()} | _failures(endpoint.shape),
    }


def _success() -> dict[str, Any]:
    content = {"application/json": {"schema": {"type": "object"}}, "text/event-stream": {}}
    return {"description": "The engine's answer", "content": content}


def _failures(shape: Shape) -> dict[str, Any]:
    examples: dict[int, dict[str, Any]] = {status: {} for status in _HEADS}
    for reason in sorted(_REASONS):
        error = BridgeError(reason, rule(reason).action)
        value = {"value": json.loads(of_service(shape, error))}
        examples.setdefault(status_of(error), {})[reason] = value
    found = {
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
