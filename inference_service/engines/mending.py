"""Answers of engines that are mended on their way: sinks between a source and a caller's sink."""

from __future__ import annotations

from collections.abc import Callable

from inference_service.engines.exchange import Head, Sink, Source

Mend = Callable[[Head, bytes], tuple[Head, bytes]]


class Mended:
    """The source of a sink that gets something else than the engine has sent."""

    def __init__(self, source: Source, sink: Sink) -> None:
        self._source = source
        self._sink = sink
        self._left = False

    def pause(self) -> None:
        self._source.pause()

    def resume(self) -> None:
        self._source.resume()

    def close(self) -> None:
        """End the request for the sink that has left."""
        self._left = True
        self._source.close()


class Whole(Mended):
    """An answer that is gathered first, since its head or its beginning may be another.

    One of more than `most` bytes goes on as it is. `tells_all` gives the sink an end without a
    head, too, where the answer is broken off.
    """

    def __init__(
        self,
        head: Head,
        source: Source,
        sink: Sink,
        mend: Mend,
        most: int,
        *,
        tells_all: bool = False,
    ) -> None:
        super().__init__(source, sink)
        self._head = head
        self._mend = mend
        self._most = most
        self._tells_all = tells_all
        self._body = bytearray()
        self._begun = False  # the sink has the head

    def begin(self, head: Head) -> None:
        """Wait for the body."""

    def data(self, data: bytes) -> None:
        if self._begun:
            self._sink.data(data)
            return
        self._body += data
        if len(self._body) > self._most:
            self._send(self._head, bytes(self._body))

    def end(self, error: Exception | None) -> None:
        if not self._begun and error is None:
            self._send(*self._mend(self._head, bytes(self._body)))
        # A sink that has got nothing is given the answer of another engine.
        if not self._left and (self._begun or self._tells_all):
            self._sink.end(error)

    def _send(self, head: Head, body: bytes) -> None:
        self._begun = True
        self._sink.head(head, self)
        if body and not self._left:
            self._sink.data(body)
