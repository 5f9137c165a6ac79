"""From the messages of Forward to requests of engines, and back."""

from __future__ import annotations

import msgspec

from inference_service.engines.exchange import Head, Request
from inference_service.errors import InvalidParameter
from inference_service.serving.model import Model
from inference_service.serving.models import Models
from inference_service.v1 import model_service_pb2 as pb

METHODS = ("POST", "GET")
_JSON = "application/json"

_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_look = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_text = msgspec.json.Decoder(str).decode


def request(message: pb.ForwardRequest, model: Model, models: Models) -> Request:
    """Return the checked request, for an engine that knows the model by its own name.

    Raises InvalidParameter with every mistake, and InvalidRequest.
    """
    entry = model.entry
    paths = entry.engine.paths(entry.spec)
    method = message.method or "POST"
    wrong = {}
    if message.path not in paths:
        allowed = ", ".join(paths)
        wrong["path"] = f"must be one of {allowed}, for {model.id}, not {message.path[:80]!r}"
    if method not in METHODS:
        wrong["method"] = f"must be POST or GET, not {method[:20]!r}"
    if wrong:
        raise InvalidParameter(wrong, model.id)
    content_type = message.content_type or (_JSON if message.body else "")
    body = message.body
    if body and content_type.partition(";")[0].strip().lower() == _JSON:
        options = _options(body, model)
        entry.engine.check(entry.spec, message.path, options)
        body = _named(body, options, model, models)
    return Request(method, message.path, body, content_type, message.accept)


def head(head: Head) -> pb.ForwardResponse:
    """Return the event that carries the head of an answer."""
    content_type = head.headers.get(b"content-type", b"").decode("latin-1")
    return pb.ForwardResponse(head=pb.ForwardHead(status=head.status, content_type=content_type))


def _options(body: bytes, model: Model) -> dict[str, msgspec.Raw]:
    try:
        return _look(body)
    except _UNREADABLE as error:
        reason = str(error).removeprefix("JSON is malformed: ")
        raise InvalidParameter({"body": f"must be a JSON object: {reason}"}, model.id) from None


def _named(body: bytes, values: dict[str, msgspec.Raw], model: Model, models: Models) -> bytes:
    """Return a body whose `model` is the engine's own name of it.

    The values at the top stay as they came, byte for byte.
    """
    if "model" not in values:
        return body
    try:
        name = _text(values["model"])
    except _UNREADABLE:
        raise InvalidParameter({"body": "`model` must be a string"}, model.id) from None
    own = model.entry.command.model
    if name == own:
        return body
    if models.find(name) is not model:
        mistake = f"`model` is {name[:80]!r}, which is not a name of {model.id}"
        raise InvalidParameter({"body": mistake}, model.id)
    return msgspec.json.encode(values | {"model": msgspec.Raw(msgspec.json.encode(own))})
