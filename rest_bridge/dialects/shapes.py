"""The shapes of errors: how each dialect writes an error of the service, and one of an engine."""

import json
from typing import Any, ClassVar, Protocol

import msgspec

from rest_bridge.errors import BridgeError

_STATUS = {422: 400, 408: 400}  # of the service, in these dialects; their SDKs send a 408 again
_CODES = {"PROMPT_TOO_LONG": "context_length_exceeded"}  # of OpenAI, which frameworks know


class Shape(Protocol):
    """The errors of one dialect."""

    def body(self, status: int, message: str, code: str, field: str | None) -> Any:
        """Return the JSON of an error."""

    def event(self, body: bytes) -> bytes:
        """Return the event of an error in a stream, with the end of that stream."""

    def fits(self, body: Any) -> bool:
        """Return whether the JSON of an engine's error is in this shape."""


class OpenAi:
    """OpenAI's `{"error": {"message", "type", "param", "code"}}`."""

    def body(self, status: int, message: str, code: str, field: str | None) -> Any:
        kind = {429: "rate_limit_error", 404: "not_found_error"}.get(status)
        kind = kind or ("invalid_request_error" if status < 500 else "server_error")
        return {"error": {"message": message, "type": kind, "param": field, "code": code}}

    def event(self, body: bytes) -> bytes:
        return b"data: %b\n\ndata: [DONE]\n\n" % body

    def fits(self, body: Any) -> bool:
        error = body.get("error") if isinstance(body, dict) else None
        return isinstance(error, dict) and isinstance(error.get("message"), str)


class Responses(OpenAi):
    """OpenAI's, where a stream has named events and no `[DONE]`."""

    def event(self, body: bytes) -> bytes:
        error = json.loads(body).get("error", {})
        named = {
            "type": "error",
            **{name: error.get(name) for name in ("code", "message", "param")},
        }
        return b"event: error\ndata: %b\n\n" % encoded({**named, "sequence_number": 0})


class Anthropic:
    """Anthropic's `{"type": "error", "error": {"type", "message"}}`."""

    _TYPES: ClassVar = {
        400: "invalid_request_error",
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        413: "request_too_large",
        429: "rate_limit_error",
        503: "overloaded_error",
        504: "timeout_error",
    }
    _KNOWN: ClassVar = (*_TYPES.values(), "api_error", "billing_error")

    def body(self, status: int, message: str, code: str, field: str | None) -> Any:
        kind = self._TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
        return {"type": "error", "error": {"type": kind, "message": message}}

    def event(self, body: bytes) -> bytes:
        return b"event: error\ndata: %b\n\n" % body

    def fits(self, body: Any) -> bool:
        """Return that for the types of Anthropic; vLLM has its own, such as BadRequestError."""
        if not (isinstance(body, dict) and body.get("type") == "error" and OPENAI.fits(body)):
            return False
        return body["error"].get("type") in self._KNOWN


class Ollama:
    """Ollama's `{"error": "<a sentence>"}`."""

    def body(self, status: int, message: str, code: str, field: str | None) -> Any:
        return {"error": message}

    def event(self, body: bytes) -> bytes:
        return body + b"\n"

    def fits(self, body: Any) -> bool:
        return isinstance(body, dict) and isinstance(body.get("error"), str)


OPENAI = OpenAi()
OLLAMA = Ollama()
RESPONSES = Responses()
ANTHROPIC = Anthropic()


def status_of(error: BridgeError) -> int:
    """Return the status of HTTP that these dialects have for an error."""
    return _STATUS.get(error.http_status, error.http_status)


def of_service(shape: Shape, error: BridgeError) -> bytes:
    """Return the body of an error of the service."""
    code = _CODES.get(error.reason, error.reason.lower())
    return encoded(shape.body(status_of(error), error.detail, code, error.field))


def of_engine(shape: Shape, status: int, body: bytes) -> bytes:
    """Return the body of an engine's error, as it is where it has the shape."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        found = body.decode("utf-8", "replace").strip()
    if shape.fits(found):
        return body
    message = _message(found) or f"the engine has answered with the status {status}"
    return encoded(shape.body(status, message, "engine_error", None))


def encoded(value: object) -> bytes:
    """Encode JSON on one line, as an event needs it."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")


def _message(found: Any) -> str:
    """Return the sentence of an error, from the shapes that engines have."""
    while isinstance(found, dict):
        found = found.get("error") or found.get("message") or found.get("detail")
    return found if isinstance(found, str) else json.dumps(found) if found else ""
