"""From the messages of Forward to requests of engines, and back."""

from __future__ import annotations

import asyncio
from typing import Protocol

import msgspec

from inference_service import malformed
from inference_service.api.texts import LARGEST, refuse_large_text
from inference_service.engines.exchange import Head, Options, Request
from inference_service.errors import InvalidParameter, PathNotOffered, RequestTooLarge
from inference_service.serving.model import Model
from inference_service.serving.models import Models
from inference_service.v1 import model_service_pb2 as pb

METHODS = ("POST", "GET")
_JSON = "application/json"

# Of values, and of escapes: a million take the decoder 40 ms, in which the loop serves nobody.
_MOST_MARKS = 1_000_000
_LARGE = 1 << 20  # bytes, of which fewer cannot have so many

_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_look = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_text = msgspec.json.Decoder(str).decode

_NOTHING: Options = {}


class Forwarded(Protocol):
    """The fields of a ForwardRequest that make a request: a message, or the same without a wire."""

    @property
    def model_id(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def method(self) -> str: ...
    @property
    def body(self) -> bytes: ...
    @property
    def content_type(self) -> str: ...
    @property
    def accept(self) -> str: ...


async def request(asked: Forwarded, models: Models) -> tuple[Model, Request]:
    """Return the model and the checked request, which calls the model by the engine's own name.

    Raises InvalidParameter with every mistake, InvalidRequest, ModelNotFound, PathNotOffered, and
    RequestTooLarge.
    """
    if len(asked.body) <= LARGEST:
        return request_now(asked, models)
    if _is_json(asked):
        _refuse_many_marks(asked.body)
    await asyncio.sleep(0)  # each look at 32 MiB takes 10 to 20 ms
    options = _looked(asked)
    await asyncio.sleep(0)
    refuse_large_text(asked.body, options)
    await asyncio.sleep(0)
    return _made(asked, options, models)


def request_now(asked: Forwarded, models: Models) -> tuple[Model, Request]:
    """Return what `request` does, without others of the loop in between."""
    if len(asked.body) > _LARGE and _is_json(asked):
        _refuse_many_marks(asked.body)
    return _made(asked, _looked(asked), models)


def _looked(asked: Forwarded) -> Options:
    """Return the values at the top of a JSON object, as they came, by name."""
    if not asked.body or not _is_json(asked):
        return _NOTHING
    try:
        return _look(asked.body)
    except _UNREADABLE as error:
        if (field := malformed.field_in(asked.body)) is not None:
            raise InvalidParameter({field: malformed.SENTENCE}) from None
        reason = str(error).removeprefix("JSON is malformed: ")
        raise InvalidParameter({"body": f"must be a JSON object: {reason}"}) from None


def _is_json(asked: Forwarded) -> bool:
    given = asked.content_type or _JSON
    return given == _JSON or given.partition(";")[0].strip().lower() == _JSON


def _refuse_many_marks(body: bytes) -> None:
    for mark, name in ((b",", "commas"), (b"\\", "backslashes")):
        if body.count(mark) > _MOST_MARKS:
            raise RequestTooLarge(f"the body has more than {_MOST_MARKS} {name}; send less")


def _made(asked: Forwarded, options: Options, models: Models) -> tuple[Model, Request]:
    body = asked.body
    name = _name(options) if "model" in options or not asked.model_id else None
    model = models.find(asked.model_id or name or "")
    entry = model.entry
    if asked.path not in entry.engine.paths(entry.spec):
        raise _not_offered(asked.path, model, models)
    method = asked.method or "POST"
    if method not in METHODS:
        wrong = {"method": f"must be POST or GET, not {method[:20]!r}"}
        raise InvalidParameter(wrong, model.id)
    if options or (method == "POST" and _is_json(asked)):
        entry.engine.check(entry.spec, asked.path, options)
        if name is not None and name != entry.command.model:
            body = _renamed(name, options, model, models)
    content_type = asked.content_type or (_JSON if body else "")
    return model, Request(method, asked.path, body, content_type, asked.accept, options)


def head(head: Head) -> pb.ForwardResponse:
    """Return the event that carries the head of an answer."""
    content_type = head.headers.get(b"content-type", b"").decode("latin-1")
    return pb.ForwardResponse(head=pb.ForwardHead(status=head.status, content_type=content_type))


def _name(options: Options) -> str:
    """Return the name of the model that a body asks for."""
    if "model" not in options:
        raise InvalidParameter({"model": "is missing: name one of those that are served"})
    try:
        return _text(options["model"])
    except UnicodeDecodeError:
        raise InvalidParameter({"model": malformed.SENTENCE}) from None
    except _UNREADABLE:
        raise InvalidParameter({"model": "must be a string"}) from None


def _renamed(name: str, options: Options, model: Model, models: Models) -> bytes:
    """Return a body whose `model` is the engine's own name, in place of this one.

    The values at the top stay as they came, byte for byte.
    """
    if models.find(name) is not model:
        raise InvalidParameter({"model": f"{name[:80]!r} is not a name of {model.id}"}, model.id)
    own = msgspec.json.encode(model.entry.command.model)
    return msgspec.json.encode({**options, "model": msgspec.Raw(own)})


def _not_offered(path: str, model: Model, models: Models) -> PathNotOffered:
    others = [m.id for m in models if path in m.entry.engine.paths(m.entry.spec)]
    offered = model.entry.engine.paths(model.entry.spec)
    return PathNotOffered(model.id, path, others, offered)
