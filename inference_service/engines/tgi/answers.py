"""TGI's answers in OpenAI's JSON, as OpenAI would send them: a sink around the sink.

What TGI does otherwise, of `router/src/server.rs` and `router/src/chat.rs` at tag v3.3.7:

- A stream has the status 200 even if the request is refused: the refusal is its first event.
- A text ends with its stop sequence. A stream of `/v1/completions` ends with the text of the token
  at the end of a text (`</s>`), and its reasons are TGI's own, or empty.
- Ids are empty, and the model is the repository. Errors are in a form of its own, or plain text.
"""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import msgspec

from inference_service.engines.exchange import Head, Sink, Source
from inference_service.engines.sse import UNREADABLE, EventParser
from inference_service.engines.stops import StopFilter
from inference_service.engines.tgi.asked import CHAT, MODELS, Asked
from inference_service.engines.tgi.wire import LOST
from inference_service.errors import EngineFailed, EngineLost, ServiceError

_LARGEST = 8 << 20  # bytes of an answer that is no stream
_COMMENT = b":\n\n"
_JSON, _EVENTS = b"application/json", b"text/event-stream"
_REASONS = {"": None, "eos_token": "stop", "stop_sequence": "stop"}
_TYPES = {429: "rate_limit_error", 401: "authentication_error", 404: "not_found_error"}
_REFUSED = "Input validation error"
_OVERLOADED = "Model is overloaded"
_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")

_decode, _encode = msgspec.json.decode, msgspec.json.encode


class Answer:
    """A sink that translates an answer for another sink.

    A stream is translated event by event, and any other answer is gathered first. `failure` is that
    of an answer which makes no sense.
    """

    failure: ServiceError | None = None

    def __init__(self, asked: Asked, sink: Sink) -> None:
        self._asked = asked
        self._sink = sink
        self._over = False
        self._stream: _Stream | None = None
        self._events = EventParser()
        self._begun = False  # the sink has the head
        self._head: Head
        self._source: Source
        self._body = bytearray()

    def head(self, head: Head, source: Source) -> None:
        self._head, self._source = head, source
        if head.status == 200 and head.content_type.encode() == _EVENTS:
            self._stream = _Stream(self._asked)

    def data(self, data: bytes) -> None:
        if self._over:
            return
        if self._stream is None:
            self._body += data
            if len(self._body) > _LARGEST:
                self._fail(EngineFailed(f"sent an answer of more than {_LARGEST} bytes"))
            return
        try:
            self._translate(self._stream, data)
        except EngineFailed as error:
            self._fail(error)

    def end(self, error: Exception | None) -> None:
        if self._over:
            return
        if error is None and self._stream is None:
            self._whole()
        elif error is None and self._stream is not None and self._stream.done:
            self._finish()
        elif error is None:
            self._fail(EngineLost("ended its stream without the last event"))
        elif self._begun:
            self._over = True
            self._sink.end(error)

    def pause(self) -> None:
        self._source.pause()

    def resume(self) -> None:
        self._source.resume()

    def close(self) -> None:
        """End the request for the sink that has left."""
        self._over = True
        self._source.close()

    def _translate(self, stream: _Stream, data: bytes) -> None:
        lines = self._events.feed(data)
        if not lines:
            if data == _COMMENT:  # it keeps the connections on the way alive
                self._send(data)
            return
        out = stream.feed(lines)
        if stream.refusal is not None and not self._begun:
            self._refuse(_status(stream.refusal), error_of(_status(stream.refusal), stream.refusal))
            return
        if out:
            self._send(out)
        if stream.early:
            self._finish()

    def _send(self, data: bytes) -> None:
        if not self._begun:
            self._begin(200, _EVENTS)
        if not self._over:
            self._sink.data(data)

    def _begin(self, status: int, content_type: bytes) -> None:
        self._begun = True
        self._sink.head(Head(status, {b"content-type": content_type}), self)

    def _refuse(self, status: int, error: dict[str, Any]) -> None:
        """Answer with an error, which is the first that comes."""
        message = error["error"]["message"]
        if any(sign in message for sign in LOST):
            self._fail(EngineLost(f"failed: {message}"))
        else:
            self._answer(status, error)

    def _whole(self) -> None:
        status, body = self._head.status, bytes(self._body)
        if status != 200:
            self._refuse(status, _refused(status, body))
            return
        try:
            answer = _decode(body, type=dict[str, Any])
            translated = _models(answer, self._asked) if self._asked.path == MODELS else None
            self._answer(200, translated or _texts(answer, self._asked))
        except (*UNREADABLE, KeyError, TypeError, AttributeError) as error:
            self._fail(EngineFailed(f"sent an answer that is not its own: {error!r}"))

    def _answer(self, status: int, answer: dict[str, Any]) -> None:
        self._begin(status, _JSON)
        if not self._over:
            self._sink.data(_encode(answer))
        if not self._over:
            self._finish()

    def _finish(self) -> None:
        if self._over:
            return
        self._over = True
        self._source.close()  # nothing where the answer has ended
        self._sink.end(None)

    def _fail(self, error: ServiceError) -> None:
        self.failure, self._over = error, True
        self._source.close()
        if self._begun:
            self._sink.end(error)


class _Text:
    """One of the texts of a stream."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._filter = StopFilter(stops)
        self.ended = False
        self.cut = False  # before TGI has ended it

    def feed(self, text: str, reason: str | None) -> tuple[str, str | None]:
        """Return the text to send, and the reason in OpenAI's words if it ends here."""
        shown = self._filter.feed(text)
        if self._filter.hit:
            self.cut = not reason
            reason = "stop"
        elif reason:
            shown += self._filter.rest()
        self.ended = bool(reason)
        return shown, _REASONS.get(reason or "", reason)


class _Stream:
    """The events of a stream, one for each token, and their translation."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._is_chat = asked.path == CHAT
        self._id = new_id(asked.path)
        self._texts = [_Text(asked.stops) for _ in range(asked.prompts)]
        self._usage = dict.fromkeys(_COUNTS, 0)
        self._like: dict[str, Any] = {}  # the last event, without its choices
        self.refusal: str | None = None  # the first event
        self.done = False
        self.early = False  # done before TGI is
        self._failed = False

    def feed(self, lines: bytes) -> bytes:
        """Translate events, each on a line of its own."""
        out: list[bytes] = []
        for line in lines.splitlines():
            if self.done or not (line := line.strip()):
                continue
            if line == b"[DONE]":
                self._end(out)
            else:
                self._event(line, out)
        return b"".join(out)

    def _event(self, line: bytes, out: list[bytes]) -> None:
        try:
            event = _decode(line, type=dict[str, Any])
            if "error" in event:
                message, self._failed = _message(event), True
                self.refusal = None if self._like else message
                out.append(_event(error_of(_status(message), message)))
                return
            self._choices(event, out)
        except (*UNREADABLE, KeyError, IndexError, TypeError, AttributeError) as error:
            raise EngineFailed(f"sent an event that is not its own: {error!r}") from None
        if not self._asked.counts and self._are_cut():
            self.early = True
            self._end(out)

    def _choices(self, event: dict[str, Any], out: list[bytes]) -> None:
        event |= {"id": self._id, "model": self._asked.model}
        usage = event.pop("usage", None)
        if usage:
            self._usage = {name: self._usage[name] + usage[name] for name in _COUNTS}
        kept = [choice for choice in event.pop("choices") if self._choice(choice)]
        self._like = event
        if kept:
            more = {"usage": None} if self._asked.counts else {}
            out.append(_event({**event, "choices": kept, **more}))

    def _choice(self, choice: dict[str, Any]) -> bool:
        """Translate a choice in place, and return whether there is anything to send."""
        text = self._texts[choice["index"]]
        if text.ended:
            return False
        holder, key = (choice["delta"], "content") if self._is_chat else (choice, "text")
        reason, given = choice["finish_reason"], holder.get(key) or ""
        if reason == "eos_token":
            given = ""  # the text of the special token
        shown, choice["finish_reason"] = text.feed(given, reason)
        if key in holder:
            holder[key] = shown
        other = choice.get("logprobs") or holder.get("tool_calls")
        return bool(shown or choice["finish_reason"] or other)

    def _are_cut(self) -> bool:
        """Return whether all texts have ended, and one of them before TGI noticed."""
        ended = all(text.ended for text in self._texts)
        return ended and any(text.cut for text in self._texts)

    def _end(self, out: list[bytes]) -> None:
        self.done = True
        if self._asked.counts and not self._failed:
            out.append(_event({**self._like, "choices": [], "usage": self._usage}))
        out.append(b"data: [DONE]\n\n")


def _texts(answer: dict[str, Any], asked: Asked) -> dict[str, Any]:
    """Translate an answer with whole texts."""
    for choice in answer["choices"]:
        holder, key = (choice["message"], "content") if asked.path == CHAT else (choice, "text")
        if holder.get(key):
            text = _Text(asked.stops)
            shown, choice["finish_reason"] = text.feed(holder[key], choice["finish_reason"])
            holder[key] = shown
        choice["finish_reason"] = _REASONS.get(choice["finish_reason"], choice["finish_reason"])
    return answer | {"id": new_id(asked.path), "model": asked.model}


def _models(answer: dict[str, Any], asked: Asked) -> dict[str, Any]:
    for model in answer["data"]:
        model["id"] = asked.model
    return answer


def new_id(path: str) -> str:
    """Make the id of an answer."""
    return f"{'chatcmpl' if path == CHAT else 'cmpl'}-{uuid4().hex}"


def error_of(status: int, message: str, code: str | None = None) -> dict[str, Any]:
    """Return an error in OpenAI's form."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def _refused(status: int, body: bytes) -> dict[str, Any]:
    """Return the error of an answer that is TGI's JSON, or plain text, or empty."""
    try:
        answer = _decode(body, type=dict[str, Any])
        return error_of(status, _message(answer), str(answer.get("error_type", "")) or None)
    except UNREADABLE:
        text = " ".join(body.decode(errors="replace").split())[:1000]
        return error_of(status, text or f"the engine answered HTTP {status}")


def _message(answer: dict[str, Any]) -> str:
    error = answer.get("error", answer)
    return str(error.get("message", error) if isinstance(error, dict) else error)


def _status(message: str) -> int:
    if message.startswith(_OVERLOADED):
        return 429
    return 422 if message.startswith(_REFUSED) else 500


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + _encode(data) + b"\n\n"
