"""Errors of llama.cpp that are mistakes of callers, with the status and code that clients know.

llama.cpp answers 500 to some of them, and the SDKs of OpenAI and Anthropic send a 500 again.
"""

from __future__ import annotations

from typing import Any

import msgspec

from inference_service.engines.exchange import Head

STATUSES = frozenset((400, 500))

# Parts of the messages of a 500, as xllamacpp 2026.10.11549 writes them.
_SIGNS = (
    "' is required",
    "Failed to parse messages",
    "Failed to parse tools",
    "[json.exception.",
    "input is not supported",
    "Unknown reasoning format",
    "vector::_M_range_check",  # a token that the model does not have
)
_TOO_LARGE = "is too large to process"  # the input of an embedding, which has to fit one batch
_TOO_LONG = "exceed_context_size_error"
_CODE = "context_length_exceeded"  # OpenAI's, which frameworks know
_JSON = {b"content-type": b"application/json; charset=utf-8"}
_INVALID = {"code": 400, "type": "invalid_request_error"}


def mended(head: Head, body: bytes) -> tuple[Head, bytes]:
    """Return an error as it should be."""
    try:
        answer = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return head, body
    changes = _changes(head.status, answer.get("error"))
    if changes is None:
        return head, body
    return Head(400, _JSON), msgspec.json.encode({**answer, "error": answer["error"] | changes})


def _changes(status: int, error: object) -> dict[str, Any] | None:
    """Return the fields of an error that change, or None."""
    if not isinstance(error, dict):
        return None
    message = error.get("message")
    if error.get("type") == _TOO_LONG:
        return {"code": _CODE}
    if status == 400 or not isinstance(message, str):
        return None
    if _TOO_LARGE in message:
        return _INVALID | {"code": _CODE}
    return _INVALID if any(sign in message for sign in _SIGNS) else None
