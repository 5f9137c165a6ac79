"""Server-sent events as engines send them, and the HTTP requests behind a generation.

The format is the WHATWG's (https://html.spec.whatwg.org/multipage/server-sent-events.html), of
which engines use `data` fields and comments. TGI up to 2.0.4 leaves out the space after the colon.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import closing
from typing import Any

import msgspec

from inference_service.engines.http import Answer, Connections
from inference_service.errors import EngineFailed, EngineLost

_BEGIN = b"\n\ndata:"  # of an event, with the end of the one before
_LARGEST_EVENT = 1 << 20
_LARGEST_REFUSAL = 16 << 10


class Refusal(Exception):
    """The engine answered with an error status and this body."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status
        self.body = body

    @property
    def text(self) -> str:
        """The beginning of the body, for people."""
        return " ".join(self.body.decode(errors="replace").split())[:300] or "(empty)"


class EventParser:
    """Cuts bytes into events, wherever the network has split them."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """The JSON of each event that `data` completes, on a line of its own; comments are dropped.

        Lines may begin with a space, and one that is empty says nothing.
        """
        data = self._rest + data
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        events, end, self._rest = data.rpartition(b"\n\n")
        if len(self._rest) > _LARGEST_EVENT:
            raise EngineFailed("sent an event of more than 1 MiB")
        return _lines(end + events) if end else b""


def _lines(events: bytes) -> bytes:
    lines = events.replace(_BEGIN, b"\n")
    if len(events) - len(lines) == (len(_BEGIN) - 1) * lines.count(b"\n"):
        return lines  # each line was the data of an event: all that a healthy engine sends
    return b"\n".join(filter(None, map(_data, events.split(b"\n\n"))))


def _data(event: bytes) -> bytes:
    # Where an event has several, the newline between them is one between two tokens of its JSON.
    return b" ".join(line[5:] for line in event.split(b"\n") if line.startswith(b"data:"))


async def post(connections: Connections, url: str, body: Any) -> AsyncGenerator[bytes]:
    """Send `body` as JSON and yield the events of the answer, as many at once as have come.

    See `EventParser.feed` for how they stand there.

    Closing it closes the connection, which is how engines learn that nobody listens. Raises Refusal
    when the engine answers with an error status, and EngineLost when it breaks off.
    """
    parser = EventParser()
    try:
        with closing(await _asked(connections, url, body, "text/event-stream")) as answer:
            async for data in answer:
                if lines := parser.feed(data):
                    yield lines
    except OSError as error:
        raise _lost(error) from error


async def fetch(
    connections: Connections, url: str, body: Any, most: int = 4 << 20
) -> tuple[bytes, dict[bytes, bytes]]:
    """Send `body` as JSON and return the JSON of the answer, `most` bytes of it, with its headers.

    Cancelling it closes the connection. Raises what `post` does.
    """
    try:
        with closing(await _asked(connections, url, body, "application/json")) as answer:
            return await _beginning(answer, most), answer.headers
    except OSError as error:
        raise _lost(error) from error


async def _asked(connections: Connections, url: str, body: Any, content_type: str) -> Answer:
    answer = await connections.ask("POST", url, msgspec.json.encode(body))
    if answer.status == 200 and answer.content_type == content_type:
        return answer
    with closing(answer):
        raise Refusal(answer.status, await _beginning(answer, _LARGEST_REFUSAL))


def _lost(error: OSError) -> EngineLost:
    return EngineLost(f"broke the connection: {error or type(error).__name__}")


async def _beginning(answer: Answer, size: int) -> bytes:
    body = b""
    async for data in answer:
        body += data
        if len(body) >= size:
            break
    return body[:size]


async def answers(connections: Connections, url: str) -> bool:
    """Whether a GET of `url` gives 200 within a few seconds."""
    try:
        async with asyncio.timeout(5):
            with closing(await connections.ask("GET", url)) as answer:
                return answer.status == 200
    except OSError:  # TimeoutError is one
        return False
