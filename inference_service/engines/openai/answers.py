"""Errors of servers of OpenAI's JSON, with the codes that OpenAI's clients know.

vLLM, SGLang and transformers write the status as the `code` of an error (vllm-project/vllm#37011),
and know a path that they do not have as `{"detail": "Not Found"}`. Other bytes go on as they are.
"""

from __future__ import annotations

from typing import Any

import msgspec

from inference_service.engines import paths
from inference_service.engines.exchange import Head, Request, Sink, Source
from inference_service.engines.mending import Whole
from inference_service.engines.openai import wire

_LARGEST = 64 << 10  # bytes of an error
_NO_PATH = 404
_TOO_LONG = frozenset((400, 413, 422))
_NOT_FOUND = ("", "not found", "file not found")  # in small letters; TEI, FastAPI, llama-server
_JSON = {b"content-type": b"application/json"}


class Answer:
    """A sink that stands back when it has seen the head of an answer that is no error.

    `data` and `end` are then those of the caller's sink itself. `tells_all` is that of Whole.
    """

    def __init__(self, request: Request, sink: Sink, *, tells_all: bool) -> None:
        self._request = request
        self._sink = sink
        self._tells_all = tells_all
        self.data = sink.data
        self.end = sink.end

    def head(self, head: Head, source: Source) -> None:
        if head.status in _TOO_LONG or head.status == _NO_PATH:
            error = Whole(
                head, source, self._sink, self._mended, _LARGEST, tells_all=self._tells_all
            )
            self.data, self.end = error.data, error.end
        else:
            self._sink.head(head, source)

    def _mended(self, head: Head, body: bytes) -> tuple[Head, bytes]:
        return mended(self._request, head, body)


def mended(request: Request, head: Head, body: bytes) -> tuple[Head, bytes]:
    """Return an error as it should be."""
    try:
        answer: Any = msgspec.json.decode(body) if body else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        answer = body.decode(errors="replace")
    message, kind, _ = wire.explained(answer)
    if head.status == _NO_PATH:
        if request.path in paths.OPENAI and message.strip().lower() in _NOT_FOUND:
            return _no_path(request.path)
    elif _is_openais(answer) and wire.is_too_long(message, kind):
        error = answer["error"] | {"code": "context_length_exceeded"}
        return Head(head.status, _JSON), msgspec.json.encode(answer | {"error": error})
    return head, body


def _is_openais(answer: Any) -> bool:
    """Return whether an error is in OpenAI's shape, and not in Anthropic's, which has no codes."""
    return (
        isinstance(answer, dict)
        and isinstance(answer.get("error"), dict)
        and (answer.get("type") != "error")
    )


def _no_path(path: str) -> tuple[Head, bytes]:
    error = {
        "message": f"the engine of this model has no path {path}: use a model that has it",
        "type": "not_found_error",
        "param": None,
        "code": "path_not_offered",
    }
    return Head(_NO_PATH, _JSON), msgspec.json.encode({"error": error})
