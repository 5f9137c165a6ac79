"""Requests in OpenAI's JSON, as TGI takes them."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from inference_service.engines.exchange import Request
from inference_service.errors import InvalidRequest

COMPLETIONS, CHAT, MODELS = "/v1/completions", "/v1/chat/completions", "/v1/models"
PATHS = (COMPLETIONS, CHAT, MODELS)

_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_JSON = "application/json"

# Fields that mean nothing by now, for they were checked. TGI refuses some of them for their type.
_DROPPED = ("n", "best_of", "logit_bias", "presence_penalty", "suffix", "echo", "user")
_OWN_NAME = msgspec.Raw(b'"tgi"')

_look = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode = msgspec.json.decode
_encode = msgspec.json.encode


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for that its answer must show, and TGI's does not."""

    path: str
    model: str
    stops: tuple[str, ...] = ()
    prompts: int = 1
    counts: bool = False  # at the end of a stream


def translated(request: Request, model: str) -> tuple[Request, Asked]:
    """Return the request that TGI takes. `model` is the name where the request has none."""
    path = request.path.partition("?")[0]
    if path == MODELS:
        return request, Asked(path, model)
    try:
        given = {name: raw for name, raw in _look(request.body).items() if bytes(raw) != b"null"}
        asked = _asked(path, given, model)
        body = _encode(_body(given, asked))
    except _UNREADABLE as error:
        raise InvalidRequest(f"the body cannot be read: {error}") from None
    return Request(request.method, request.path, body, _JSON, request.accept), asked


def _asked(path: str, given: dict[str, msgspec.Raw], model: str) -> Asked:
    stop = _decode(given["stop"]) if "stop" in given else ()
    prompt = _decode(given["prompt"]) if "prompt" in given else ""
    options = _decode(given["stream_options"]) if "stream_options" in given else None
    return Asked(
        path,
        model=_decode(given["model"], type=str) if "model" in given else model,
        stops=(stop,) if isinstance(stop, str) else tuple(map(str, stop)),
        prompts=len(prompt) if isinstance(prompt, list) else 1,
        counts=isinstance(options, dict) and options.get("include_usage") is True,
    )


def _body(given: dict[str, msgspec.Raw], asked: Asked) -> dict[str, object]:
    body: dict[str, object] = {name: raw for name, raw in given.items() if name not in _DROPPED}
    # Any other name is that of an adapter, and an unknown one is no error.
    body["model"] = _OWN_NAME
    if "max_completion_tokens" in body:
        body["max_tokens"] = body.pop("max_completion_tokens")
    if asked.stops:
        body["stop"] = asked.stops
    else:
        body.pop("stop", None)
    if "top_p" in given and _decode(given["top_p"]) == 1:
        del body["top_p"]
    if "tools" in given and not _decode(given["tools"]):
        del body["tools"]
    if "response_format" in given:
        del body["response_format"]
        body |= _grammar(_decode(given["response_format"]))
    return body


def _grammar(form: dict[str, object]) -> dict[str, object]:
    """Return a `response_format` in TGI's own form."""
    match form:
        case {"type": "json_schema", "json_schema": {"schema": schema}}:
            return {"response_format": {"type": "json", "value": schema}}
    return {}
