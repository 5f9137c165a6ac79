"""The requests and answers of TGI, version 3.

Routes, bounds and messages are those of its `router/src/server.rs` and `router/src/validation.rs`
at tag v3.3.7.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from inference_service.catalog import ModelSpec
from inference_service.engines import sse
from inference_service.engines.base import FinishReason, NoRoom, Prompt
from inference_service.errors import (
    EngineFailed,
    EngineLost,
    EngineOverloaded,
    InvalidRequest,
    PromptTooLong,
)

_REASONS = {
    "eos_token": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "stop_sequence": FinishReason.STOP_SEQUENCE,
}

# The router's messages after a shard has died: those of tonic, through the `ClientError` of
# `backends/v3/src/client`. The whole of TGI ends soon after that.
LOST = ("transport error", "error trying to connect")

_NO_ROOM = re.compile(r"must be <= (\d{1,9})\. Given: (\d{1,9}) `inputs` tokens")


class _Token(msgspec.Struct):
    text: str
    special: bool = False


class Details(msgspec.Struct):
    """The end of a text."""

    finish_reason: str
    generated_tokens: int
    input_length: int = 0  # only of a stream

    @property
    def reason(self) -> FinishReason:
        """The reason for which the text ended."""
        return _REASONS.get(self.finish_reason, FinishReason.STOP)


class _Event(msgspec.Struct):
    token: _Token | None = None
    details: Details | None = None
    error: str | None = None
    error_type: str = ""


class _WholeDetails(Details, kw_only=True):
    tokens: list[_Token]


class _Whole(msgspec.Struct):
    details: _WholeDetails


_decoder = msgspec.json.Decoder(_Event)
_whole_decoder = msgspec.json.Decoder(_Whole)
_tokens_decoder = msgspec.json.Decoder(list[msgspec.Raw])


def request(prompt: Prompt, text: str, limit: int) -> dict[str, Any]:
    """Make the body of a request.

    TGI refuses temperature 0, top_p 1 and top_k 0, and samples when any of them is given.
    """
    parameters: dict[str, Any] = {
        "max_new_tokens": limit,
        "do_sample": prompt.temperature > 0,
        "details": True,
        "return_full_text": False,
        "stop": prompt.stop,
    }
    if prompt.temperature > 0:
        parameters["temperature"] = prompt.temperature
        if prompt.top_p < 1:
            parameters["top_p"] = prompt.top_p
        if prompt.top_k:
            parameters["top_k"] = prompt.top_k
        if prompt.seed is not None:
            parameters["seed"] = prompt.seed
    if prompt.repetition_penalty != 1:
        parameters["repetition_penalty"] = prompt.repetition_penalty
    return {"inputs": text, "parameters": parameters}


def read(spec: ModelSpec, lines: bytes, most: int) -> tuple[list[str], Details | None]:
    """Return the texts of up to `most` tokens, and the end if there."""
    try:
        events = _decoder.decode_lines(lines)
    except sse.UNREADABLE as error:
        raise EngineFailed(f"sent an event that is not its own: {error}") from None
    tokens: list[str] = []
    details = None
    for event in events[:most]:
        if event.error is not None:
            raise _failure(spec, event.error, event.error_type)
        if (token := event.token) is not None:
            tokens.append("" if token.special else token.text)
        details = event.details or details
    return tokens, details


def read_whole(body: bytes, headers: Mapping[bytes, bytes], most: int) -> tuple[list[str], Details]:
    """Return the texts of up to `most` tokens and the end in an answer of `/generate`."""
    try:
        details = _whole_decoder.decode(body).details
        details.input_length = int(headers.get(b"x-prompt-tokens", 0))
    except (*sse.UNREADABLE, ValueError) as error:
        raise EngineFailed(f"sent an answer that is not its own: {error}") from None
    if len(details.tokens) > most:
        raise EngineFailed(f"sent more than {most} tokens")
    return ["" if token.special else token.text for token in details.tokens], details


def count(body: bytes) -> int:
    """Count the tokens in an answer of `/tokenize`. Raises one of `sse.UNREADABLE`."""
    return len(_tokens_decoder.decode(body))


def refused(spec: ModelSpec, refusal: sse.Refusal) -> Exception:
    """Return the error that a refusal stands for, which can be a NoRoom."""
    try:
        event = _decoder.decode(refusal.body)
    except sse.UNREADABLE:
        event = _Event()
    if event.error is not None:
        return _failure(spec, event.error, event.error_type)
    if refusal.status == 413:
        detail = "its engine reads no request as large as this"
        return PromptTooLong(spec.id, spec.context_length, detail)
    return EngineFailed(f"answered HTTP {refusal.status}: {refusal.text}")


def _failure(spec: ModelSpec, message: str, kind: str) -> Exception:
    """Return the error that an `error_type` of TGI, with its message, stands for."""
    if kind == "overloaded":
        return EngineOverloaded(spec.id)
    if kind != "validation":
        lost = any(sign in message for sign in LOST)
        return (EngineLost if lost else EngineFailed)(f"failed: {message}")
    if (match := _NO_ROOM.search(message)) and (room := int(match[1]) - int(match[2])) > 0:
        return NoRoom(room)
    if match or "must have less than" in message:
        return PromptTooLong(spec.id, spec.context_length, message)
    return InvalidRequest(f"the engine refused the request: {message}")
