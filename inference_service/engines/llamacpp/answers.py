"""llama.cpp's answers, mended for clients: a sink around the sink.

Two kinds are mended: errors, which `mistakes` explains, and those of OpenAI's Responses, which
`responses` does. Any other answer goes straight to the sink of the caller.
"""

from __future__ import annotations

from functools import partial

from inference_service.engines.exchange import Head, Request, Sink, Source
from inference_service.engines.llamacpp import mistakes, responses
from inference_service.engines.llamacpp.responses import RESPONSES, Events, Limits
from inference_service.engines.mending import Mended, Whole
from inference_service.runtimes.base import Instance

_LARGEST = 64 << 10  # bytes of an error
_LARGEST_RESPONSE = 8 << 20
_EVENTS = "text/event-stream"


class Answer:
    """A sink that stands back when it has seen the head of an answer that needs no mend.

    `data` and `end` are then those of the caller's sink itself.
    """

    def __init__(self, request: Request, instance: Instance, sink: Sink) -> None:
        self._path = request.path
        self._options = request.options
        self._instance = instance
        self._sink = sink
        self.data = sink.data
        self.end = sink.end

    def head(self, head: Head, source: Source) -> None:
        if head.status == 200 and self._path != RESPONSES:
            self._sink.head(head, source)
        else:
            self._mend(head, source)

    def _mend(self, head: Head, source: Source) -> None:
        limits = Limits.of(self._options, self._instance.context)
        mended: Whole | _Stream
        if head.status in mistakes.STATUSES:
            mended = Whole(head, source, self._sink, mistakes.mended, _LARGEST)
        elif head.status == 200 and head.content_type == _EVENTS:
            mended = _Stream(Events(self._instance.model, limits), source, self._sink)
        elif head.status == 200:
            mend = partial(responses.whole, limits=limits)
            mended = Whole(head, source, self._sink, mend, _LARGEST_RESPONSE)
        else:
            self._sink.head(head, source)
            return
        self.data, self.end = mended.data, mended.end
        mended.begin(head)


class _Stream(Mended):
    """A stream of events."""

    def __init__(self, events: Events, source: Source, sink: Sink) -> None:
        super().__init__(source, sink)
        self._events = events

    def begin(self, head: Head) -> None:
        """Send the head."""
        self._sink.head(head, self)

    def data(self, data: bytes) -> None:
        if mended := self._events.feed(data):
            self._sink.data(mended)

    def end(self, error: Exception | None) -> None:
        if rest := self._events.rest():
            self._sink.data(rest)
        if not self._left:
            self._sink.end(error)
