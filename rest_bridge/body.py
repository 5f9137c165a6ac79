"""The reading of JSON bodies of requests."""

import json
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.requests import Request

from inference_service import malformed
from rest_bridge import large_body
from rest_bridge.errors import BridgeError

Body = TypeVar("Body", bound=BaseModel)

# The service receives no more than this over gRPC. The JSON of a request is never smaller than its
# protobuf, so the bridge refuses a large request before gRPC does.
MAX_BODY_BYTES = 4 * 1024 * 1024
MAX_PROBLEMS = 5
MAX_SHOWN_CHARACTERS = 40

WANTED = {
    "string_type": "must be a string",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "list_type": "must be a list of strings",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
}


async def read_json(request: Request, model: type[Body]) -> Body:
    """Read the body of a request, checked against `model`.

    Raises BridgeError when the body is not JSON, has more than 4 MiB, or does not fit the model.
    The HTTP server discards the rest of a body that is too large, as it arrives.
    """
    # A browser lets a page of another site send text/plain or a form here without a preflight
    # request (CORS), and such a page must not start a model. This content type needs a preflight.
    content_type = request.headers.get("content-type", "none")
    if content_type.partition(";")[0].strip().lower() != "application/json":
        shown = content_type[:MAX_SHOWN_CHARACTERS]
        detail = f"the content type must be application/json, not {shown}"
        raise BridgeError("INVALID_PARAMETER", detail, http_status=415)
    try:
        body = await read(request)
        if len(body) > large_body.SMALL:
            return model.model_validate(large_body.decode(body, model))
        return model.model_validate_json(body)
    except ValidationError as error:
        found = error.errors(include_url=False)[: MAX_PROBLEMS + 1]
        problems = [sentence(problem, model) for problem in found]
        if found[0]["type"] == "json_invalid" and (field := malformed.field_in(body)) is not None:
            problems = [f"{field} {malformed.SENTENCE}"]
        if len(problems) > MAX_PROBLEMS:
            problems[MAX_PROBLEMS] = "and more"
        raise BridgeError("INVALID_PARAMETER", "; ".join(problems)) from None


async def read(request: Request) -> bytes:
    """Read the bytes of a body. Raises BridgeError as soon as they are known to be too many."""
    if int(request.headers.get("content-length", 0)) > MAX_BODY_BYTES:
        raise too_large()
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise too_large()
    return bytes(body)


def too_large() -> BridgeError:
    detail = f"the body must have at most {MAX_BODY_BYTES} bytes"
    return BridgeError("REQUEST_TOO_LARGE", detail)


def sentence(problem: ErrorDetails, model: type[BaseModel]) -> str:
    """Describe the problem of one field, and its permitted values."""
    field, *index = problem["loc"] or ("the body",)
    name = f"{field}{''.join(f'[{i}]' for i in index)}"
    match problem["type"]:
        case "missing":
            return f"{name} is required"
        case "extra_forbidden":
            return f"{shown(name)} is not a field; the fields are {', '.join(model.model_fields)}"
        case "json_invalid":
            return f"{name} is not valid JSON: {problem['ctx']['error']}"
        case "model_type":
            return f"{name} must be a JSON object, not {shown(problem['input'])}"
        case kind:
            wanted = WANTED[kind].format(**problem.get("ctx", {}))
            return f"{name} {wanted}, not {shown(problem['input'])}"


def shown(value: object) -> str:
    """Format a value of the request as JSON, cut after MAX_SHOWN_CHARACTERS."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_SHOWN_CHARACTERS else text[: MAX_SHOWN_CHARACTERS - 1] + "…"
