"""The manners of calls: what is asked of the engine, and how its answer goes on."""

from __future__ import annotations

from typing import Protocol

import msgspec

from rest_bridge.dialects.answers import Answer, Headers, Stream, Streaming, Whole, passed
from rest_bridge.dialects.shapes import Shape
from rest_bridge.http.exchange import Exchange
from rest_bridge.service import Forwarded, Head


class Manner(Protocol):
    """How one request is made for the engine, and its answer for the client."""

    @property
    def asked(self) -> Forwarded:
        """The request to the engine."""

    @property
    def streams(self) -> bool:
        """Whether the client has asked for a stream."""

    def stream(self, exchange: Exchange, added: Headers) -> Streaming:
        """Begin the answer of a stream, with these headers too."""

    def whole(self, exchange: Exchange, head: Head, added: Headers) -> Answer:
        """Return what takes an answer that is no stream."""


class _Look(msgspec.Struct):
    stream: bool | None = None


_look = msgspec.json.Decoder(_Look).decode


class AsIs:
    """The manner of a dialect that the engine speaks: all is passed on as it is."""

    __slots__ = ("_shape", "asked")

    def __init__(self, path: str, shape: Shape, body: bytes) -> None:
        self.asked = Forwarded(path, body, "POST", "application/json")
        self._shape = shape

    @property
    def streams(self) -> bool:
        try:
            return bool(_look(self.asked.body).stream)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False

    def stream(self, exchange: Exchange, added: Headers) -> Stream:
        return Stream(exchange, added, self._shape)

    def whole(self, exchange: Exchange, head: Head, added: Headers) -> Whole:
        return Whole(exchange, head.status, [*passed(head.headers.items()), *added])
