"""The manners of Ollama's requests: made of OpenAI's, and the answers made of those."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec

from rest_bridge.dialects.answers import Headers
from rest_bridge.dialects.events import Events
from rest_bridge.dialects.ollama import requests
from rest_bridge.dialects.ollama.answers import Json, Made, embedded
from rest_bridge.dialects.shapes import OLLAMA, encoded
from rest_bridge.http.exchange import Exchange
from rest_bridge.service import Forwarded, Head

_CHAT = "/v1/chat/completions"
_TEXT = "/v1/completions"
_EMBED = "/v1/embeddings"
_MODELS = "/v1/models"  # which every kind of engine has
_LINES: Headers = [
    (b"content-type", b"application/x-ndjson"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]
_LARGEST = 32 << 20  # bytes of a whole answer, such as the vectors of 2,000 texts
_NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, ValueError)


class Text:
    """The manner of a request for a text; `plain` is that of `/api/generate`."""

    def __init__(self, asked: Forwarded, streams: bool, made: Made) -> None:
        self.asked = asked
        self.streams = streams
        self._made = made

    def stream(self, exchange: Exchange, added: Headers) -> Lines:
        return Lines(exchange, added, self._made)

    def whole(self, exchange: Exchange, head: Head, added: Headers) -> Gathered:
        self._made.begin()
        return Gathered(exchange, added, self._made.whole)


class Load(Text):
    """The manner of a request without a prompt, which only starts the model."""

    def whole(self, exchange: Exchange, head: Head, added: Headers) -> Gathered:
        self._made.begin()
        return Gathered(exchange, added, self._made.loaded)


def chat(body: bytes) -> Text:
    """Return the manner of `/api/chat`."""
    given = requests.read(body, requests.Chat)
    made = Made(given.model, plain=False)
    if not given.messages:
        return _load(given, made)
    return Text(_asked(_CHAT, requests.of_chat(given)), given.stream is not False, made)


def generate(body: bytes) -> Text:
    """Return the manner of `/api/generate`."""
    given = requests.read(body, requests.Generate)
    made = Made(given.model, plain=True)
    if not (given.prompt or given.images):
        return _load(given, made)
    path = _TEXT if given.raw else _CHAT
    return Text(_asked(path, requests.of_generate(given)), given.stream is not False, made)


def _load(given: requests.Common, made: Made) -> Load:
    if given.keep_alive in (0, "0"):
        advice = f"stop a model by POST /models/{given.model}/stop"
        raise requests.refused(f"keep_alive 0 without a prompt is not taken here: {advice}")
    return Load(Forwarded(_MODELS, b"", "GET", model_id=given.model), False, made)


def _asked(path: str, body: Json) -> Forwarded:
    return Forwarded(path, msgspec.json.encode(body), "POST", "application/json")


class Embed:
    """The manner of `/api/embed`, and of `/api/embeddings`, which gives `one` vector."""

    streams = False

    def __init__(self, body: bytes, one: bool = False) -> None:
        given = requests.read(body, requests.Embed)
        self._model = given.model
        self._one = one
        self._began = time.monotonic_ns()
        self.asked = _asked(_EMBED, requests.of_embed(given))

    def stream(self, exchange: Exchange, added: Headers) -> Lines:
        return Lines(exchange, added, Made(self._model, plain=True))

    def whole(self, exchange: Exchange, head: Head, added: Headers) -> Gathered:
        return Gathered(exchange, added, self._answer)

    def _answer(self, data: bytes) -> Json:
        return embedded(self._model, data, self._began, self._one)


def embed_one(body: bytes) -> Embed:
    """Return the manner of `/api/embeddings`."""
    return Embed(body, one=True)


class Gathered:
    """A whole answer of an engine, which becomes one of Ollama's at its end."""

    def __init__(self, exchange: Exchange, added: Headers, make: Callable[[bytes], Json]) -> None:
        self._exchange = exchange
        self._added = added
        self._make = make
        self._body = bytearray()

    def data(self, data: bytes) -> None:
        self._body += data[: _LARGEST + 1 - len(self._body)]

    def end(self) -> None:
        try:
            if len(self._body) > _LARGEST:
                raise ValueError(f"the engine has answered with more than {_LARGEST} bytes")
            self._send(200, encoded(self._make(bytes(self._body))))
        except _NOT_JSON as error:
            self._send(502, encoded({"error": f"the engine's answer cannot be read: {error}"}))

    def fail(self, body: bytes) -> None:
        self._send(502, body)

    def _send(self, status: int, body: bytes) -> None:
        length = (b"content-length", b"%d" % len(body))
        json = (b"content-type", b"application/json")
        self._exchange.head(status, [json, length, *self._added])
        self._exchange.write(body, more=False)


class Lines:
    """A stream of lines of JSON, made of the events of an engine."""

    def __init__(self, exchange: Exchange, added: Headers, made: Made) -> None:
        self._exchange = exchange
        self._events = Events()
        self._made = made
        self._begun = self._over = False
        self.silent = True
        exchange.head(200, [*_LINES, *added])

    def data(self, data: bytes) -> None:
        if not self._begun:
            self._begun = True
            self._made.begin()
        for event in _events(self._events.feed(data)):
            if not self._over:
                self._pass(event)

    def end(self) -> None:
        self.data(self._events.rest() + b"\n\n")
        if not self._over:
            self._write(self._made.last(), more=False)

    def fail(self, body: bytes) -> None:
        if not self._over:
            self._over = True
            self._exchange.write(body + b"\n", more=False)

    def comment(self, text: str) -> None:
        if not self._exchange.slow:
            self._write(self._made.silence())

    def _pass(self, event: bytes) -> None:
        try:
            part = self._made.part(event)
        except _NOT_JSON as error:
            self.fail(encoded(OLLAMA.body(502, str(error), "", None)))
        else:
            if part is not None:
                self.silent = False
                self._write(part)

    def _write(self, value: Any, more: bool = True) -> None:
        self._exchange.write(encoded(value) + b"\n", more)


def _events(data: bytes) -> list[bytes]:
    """Return the JSON of each event of a stream, without its end."""
    lines = data.replace(b"\r\n", b"\n").split(b"\n")
    found = [line[5:].strip() for line in lines if line.startswith(b"data:")]
    return [each for each in found if each and each != b"[DONE]"]
