"""One request that is passed on to an engine: the handler of its exchange, and the sink."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import NamedTuple

from inference_service.v1 import model_service_pb2 as pb
from rest_bridge.dialects.answers import Answer, Error, Headers, Streaming, passed
from rest_bridge.dialects.endpoints import Endpoint
from rest_bridge.dialects.manners import Manner
from rest_bridge.dialects.progress import words
from rest_bridge.dialects.shapes import of_service, status_of
from rest_bridge.dialects.ticker import Ticker
from rest_bridge.errors import BridgeError
from rest_bridge.http.exchange import Exchange
from rest_bridge.service import Forwarding, Head, Metadata, Service, Source

log = logging.getLogger(__name__)

_HELD = 32 << 10  # bytes of a body that wait to be taken together
_EVENTS = b"text/event-stream"
_JSON = (b"content-type", b"application/json")


class Terms(NamedTuple):
    """What holds for all calls; times are in seconds, and `largest` in bytes of a body."""

    service: Service
    largest: int
    keep_alive: float
    early: float  # after which the head of a stream leaves, although the engine has not answered
    ticker: Ticker


class Call:
    """The call of one request, which ends with the answer or when the client has left."""

    __slots__ = (
        "_added", "_answer", "_endpoint", "_exchange", "_manner", "_metadata", "_parts",
        "_passing", "_progress", "_since", "_source", "_stream", "_terms",
    )  # fmt: skip

    def __init__(
        self,
        exchange: Exchange,
        endpoint: Endpoint,
        metadata: Metadata,
        added: Headers,
        terms: Terms,
    ) -> None:
        self._exchange = exchange
        self._endpoint = endpoint
        self._metadata = metadata
        self._added = added  # to the head of the answer
        self._terms = terms
        self._parts: list[bytes] = []
        self._manner: Manner | None = None
        self._progress = "waiting"
        self._answer: Answer | None = None
        self._stream: Streaming | None = None
        self._source: Source | None = None
        self._passing: Forwarding | None = None
        self._since = math.inf  # of the silence, or of the call

    # The exchange calls these.

    def on_body(self) -> None:
        """Take the body, and begin when it is whole."""
        exchange = self._exchange
        if exchange.received > self._terms.largest:
            self.refuse(too_large(self._terms.largest))
        elif exchange.whole:
            body = exchange.take()
            if not self._parts:
                self._begin(body)
                return
            body = b"".join((*self._parts, body))
            # To put 32 MiB together takes 10 ms, and so does a look at them.
            asyncio.get_running_loop().call_soon(self._begin, body)
        elif exchange.waiting > _HELD or exchange.awaits_invitation:
            self._parts.append(exchange.take())

    def on_drained(self) -> None:
        """Have the engine send on."""
        if self._source is not None:
            self._source.resume()

    def on_closed(self, by_server: bool) -> None:
        """End the call."""
        if self._passing is not None:
            self._passing.cancel()
        if by_server:
            self._fail(_shutting_down())
        self._let_go()

    def refuse(self, error: BridgeError) -> None:
        """Answer with an error."""
        body = of_service(self._endpoint.shape, error)
        headers = [
            (k.lower().encode(), v.encode("latin-1", "replace")) for k, v in error.headers.items()
        ]
        self._answer_whole(status_of(error), body, headers)

    # The service calls these.

    def waits(self, status: pb.GenerateStatus) -> None:
        """Note what the request waits for, for the comments of a stream."""
        self._progress = words(status)

    def head(self, head: Head, source: Source) -> None:
        """Choose how the answer goes on."""
        self._source = source
        if head.status >= 400:
            self._answer = self._error(head)
        elif head.headers.get(b"content-type", b"").startswith(_EVENTS):
            self._answer = self._stream = self._stream or self._streams()
        elif self._stream is not None:
            self._answer = self._error(head)
        else:
            assert self._manner is not None
            self._answer = self._manner.whole(self._exchange, head, self._added)

    def data(self, data: bytes) -> None:
        """Pass bytes on, and hold the engine back while the client is slow."""
        assert self._answer is not None, "the head comes first"
        self._answer.data(data)
        if self._exchange.slow and self._source is not None:
            self._source.pause()

    def end(self, error: Exception | None) -> None:
        """End the answer."""
        if error is not None:
            self._fail(error)
        elif self._answer is not None:
            self._answer.end()
        else:
            self._fail(BridgeError("ENGINE_FAILED", "the engine has sent no answer"))
        self._let_go()

    # The ticker calls this.

    def look(self, now: float) -> None:
        """Send what shows that the call goes on, where a stream can show that."""
        if (stream := self._stream) is None:
            if self._answer is None and now - self._since >= self._terms.early:
                self._begin_early(now)
        elif not stream.silent:
            stream.silent = True
            self._since = now
        elif now - self._since >= self._terms.keep_alive:
            self._show(now)

    # The call itself.

    def _begin(self, body: bytes) -> None:
        self._parts.clear()
        if self._exchange.left or self._exchange.answer.done:
            return
        try:
            manner = self._manner = self._endpoint.manner(body)
        except BridgeError as error:
            self.refuse(error)
            return
        ticker = self._terms.ticker
        ticker.add(self)
        self._since = ticker.now
        passing = self._terms.service.forward(manner.asked, self._metadata, self)
        if self._manner is not None:  # else it has ended already
            self._passing = passing

    def _begin_early(self, now: float) -> None:
        # Asked once, since the look at a body of 32 MiB takes 20 ms and more.
        if self._manner is not None and self._manner.streams:
            self._stream = self._streams()
            self._show(now)
        else:
            self._since = math.inf

    def _let_go(self) -> None:
        """Break cycles with the body in them, which would wait for the collector."""
        self._terms.ticker.remove(self)
        self._manner = self._passing = self._source = self._answer = self._stream = None

    def _fail(self, error: Exception) -> None:
        exchange = self._exchange
        if exchange.left or exchange.answer.done:
            return
        if not isinstance(error, BridgeError):
            log.error("a fault in a call of %s", self._endpoint.path, exc_info=error)
            error = BridgeError("INTERNAL", "a fault of the service; its log has the details")
        if exchange.answer.started:
            answer = self._stream or self._answer
            assert answer is not None, "what has a head has an answer"
            answer.fail(of_service(self._endpoint.shape, error))
        else:
            self.refuse(error)

    def _show(self, now: float) -> None:
        assert self._stream is not None
        self._stream.comment(self._progress if self._answer is None else "keep-alive")
        self._stream.silent = True
        self._since = now

    def _streams(self) -> Streaming:
        assert self._manner is not None
        return self._manner.stream(self._exchange, self._added)

    def _error(self, head: Head) -> Error:
        shape = self._endpoint.shape
        if (stream := self._stream) is not None:
            return Error(shape, head.status, stream.fail)
        headers = passed(head.headers.items(), (b"retry-after",))
        return Error(
            shape, head.status, lambda body: self._answer_whole(head.status, body, headers)
        )

    def _answer_whole(self, status: int, body: bytes, headers: Headers) -> None:
        length = (b"content-length", b"%d" % len(body))
        self._exchange.head(status, [_JSON, length, *headers, *self._added])
        self._exchange.write(body, more=False)


def too_large(most: int) -> BridgeError:
    """Return the error of a body with more than `most` bytes."""
    detail = f"the body must have at most {most} bytes (setting `max_body`)"
    return BridgeError("REQUEST_TOO_LARGE", detail)


def _shutting_down() -> BridgeError:
    return BridgeError("SHUTTING_DOWN", "the service is shutting down; retry when it is back")
