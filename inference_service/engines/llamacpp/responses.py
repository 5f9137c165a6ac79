"""Answers of OpenAI's Responses, with what llama.cpp leaves out of them.

OpenAI's SDKs gather a stream by the fields of its events (ggml-org/llama.cpp#20607). An event is
read as JSON, and gets what it lacks; what llama.cpp has sent wins. The first events are missing
where a character of the text is more than one token, and come again later.

A text that its limit has ended is `completed` for llama.cpp, and `incomplete` for OpenAI.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any, NamedTuple
from uuid import uuid4

import msgspec

from inference_service.engines.exchange import Head, Options

RESPONSES = "/v1/responses"

_LARGEST = 8 << 20  # bytes of an event; the last has the whole text
_END = b"\n\n"
_DATA = b"data: "
_JSON = {b"content-type": b"application/json; charset=utf-8"}
# llama.cpp takes each of them for the limit.
_LIMITS = ("max_output_tokens", "max_tokens", "max_completion_tokens", "n_predict")
_INCOMPLETE = {"status": "incomplete"}
_COMPLETED, _CUT = "response.completed", "response.incomplete"
_CREATED, _IN_PROGRESS = "response.created", "response.in_progress"
_ADDED, _PART = "response.output_item.added", "response.content_part.added"
_REASONING = "response.reasoning_text.delta"
_TEXTS = ("response.output_text.delta", "response.output_text.done")
_IN_CONTENT = ("response.content_part.", "response.output_text.", "response.reasoning_text.")

_decode, _encode = msgspec.json.decode, msgspec.json.encode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Limits(NamedTuple):
    """Where a text ends at the latest: its own tokens, and those of the context, 0 if unknown."""

    tokens: Collection[int]
    context: int = 0

    @classmethod
    def of(cls, options: Options, context: int) -> Limits:
        """Return the limits of a request."""
        given = (bytes(options[name]) for name in _LIMITS if name in options)
        return cls({int(each) for each in given if each.isdigit()}, context)

    def have_ended(self, response: dict[str, Any]) -> bool:
        """Return whether a response has as many tokens as it may.

        One that ends by itself with the last of them counts too: llama.cpp does not say which it
        is.
        """
        match response:
            case {
                "status": "completed",
                "usage": {"output_tokens": int(count), "total_tokens": int(total)},
            }:
                return count in self.tokens or (0 < self.context <= total)
        return False


NO_LIMITS = Limits(())


def whole(head: Head, body: bytes, limits: Limits) -> tuple[Head, bytes]:
    """Return an answer that is no stream, as it should be."""
    try:
        response = _decode(body)
    except _UNREADABLE:
        return head, body
    if not isinstance(response, dict) or not limits.have_ended(response):
        return head, body
    return Head(200, _JSON), _encode(_cut(response))


def _cut(response: dict[str, Any]) -> dict[str, Any]:
    response = {**response, **_INCOMPLETE, "incomplete_details": {"reason": "max_output_tokens"}}
    response.pop("completed_at", None)
    output = response.get("output")
    if isinstance(output, list) and output and isinstance(output[-1], dict):
        response["output"] = [*output[:-1], output[-1] | _INCOMPLETE]
    return response


class Events:
    """The events of one stream, wherever the network has split them."""

    def __init__(self, model: str, limits: Limits = NO_LIMITS) -> None:
        self._rest = bytearray()
        self._seen = 0  # bytes of the rest in which no event ends
        self._passes = False  # all that comes
        self._response = _Response(model, limits)

    def feed(self, data: bytes) -> bytes:
        """Return the events that `data` completes, mended."""
        if self._passes:
            return data
        rest = self._rest
        rest += data
        out: list[bytes] = []
        begin, at = 0, self._seen
        while (end := rest.find(_END, at)) >= 0:
            at = end + len(_END)
            out.append(self._response.mended(bytes(rest[begin:at])))
            begin = at
        del rest[:begin]
        self._seen = max(0, len(rest) - 1)
        if len(rest) > _LARGEST:
            self._passes = True
            out.append(self.rest())
        return b"".join(out)

    def rest(self) -> bytes:
        """Return what has come of an event without its end."""
        rest = bytes(self._rest)
        self._rest.clear()
        return rest


class _Response:
    """A response as its events tell it."""

    def __init__(self, model: str, limits: Limits) -> None:
        self._model = model
        self._limits = limits
        self._count = 0  # events
        self._id: str | None = None  # of this module, where llama.cpp has not said it in time
        self._items: dict[str, int] = {}  # their places in the output, by id
        self._begun: set[str] = set()  # reasoning that has its part
        self._created: set[str] = set()  # which of the first events have come

    def mended(self, event: bytes) -> bytes:
        """Return an event with what it lacks, and with events that are missing before it.

        Returns nothing for a first event that has come before. Comments, errors, and what is no
        event of a response, stay as they are.
        """
        _, mark, data = event.partition(_DATA)
        try:
            fields = _decode(data) if mark else None
        except _UNREADABLE:
            return event
        if not isinstance(fields, dict):
            return event
        kind = fields.get("type")
        if not isinstance(kind, str) or not kind.startswith("response."):
            return event
        if kind in self._created:
            return b""
        response = fields.get("response")
        if kind == _COMPLETED and isinstance(response, dict) and self._limits.have_ended(response):
            kind, fields = _CUT, {**fields, "type": _CUT, "response": _cut(response)}
        return b"".join((*self._before(kind, fields), self._event(kind, fields)))

    def _before(self, kind: str, fields: dict[str, Any]) -> list[bytes]:
        """Return the events that should have come before this one."""
        missing = []
        if _CREATED not in self._created and kind != _CREATED:
            given = fields.get("response")
            self._id = given["id"] if isinstance(given, dict) and "id" in given else _new_id()
            response = {"id": self._id, "object": "response", "status": "in_progress"}
            first = [each for each in (_CREATED, _IN_PROGRESS) if each != kind]
            missing += [self._event(each, {"response": response}) for each in first]
        if kind == _REASONING and (item := str(fields.get("item_id"))) not in self._begun:
            self._begun.add(item)
            part = {"type": "reasoning_text", "text": ""}
            missing.append(self._event(_PART, {"item_id": item, "part": part}))
        return missing

    def _event(self, kind: str, fields: dict[str, Any]) -> bytes:
        fields = {"type": kind, "sequence_number": self._count, **self._places(kind, fields)}
        self._count += 1
        if kind in _TEXTS:
            fields.setdefault("logprobs", [])
        if kind in (_CREATED, _IN_PROGRESS):
            self._created.add(kind)
        if isinstance(response := fields.get("response"), dict):
            given = {"created_at": int(time.time()), "model": self._model, "output": []}
            known = {} if self._id is None else {"id": self._id}
            fields["response"] = given | response | known
        if isinstance(part := fields.get("part"), dict) and part.get("type") == "output_text":
            fields["part"] = {"annotations": [], **part}
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), _encode(fields))

    def _places(self, kind: str, fields: dict[str, Any]) -> dict[str, Any]:
        """Return the fields of an event with its place in the response."""
        item = fields.get("item")
        own = item.get("id") if isinstance(item, dict) else fields.get("item_id")
        if kind == _ADDED:
            self._items[str(own)] = len(self._items)
        places = {}
        if isinstance(item, dict) or "item_id" in fields:
            places["output_index"] = self._items.get(str(own), max(0, len(self._items) - 1))
        if kind.startswith(_IN_CONTENT):
            places["content_index"] = 0
        return places | fields


def _new_id() -> str:
    return f"resp_{uuid4().hex}"
