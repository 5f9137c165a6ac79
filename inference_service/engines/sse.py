"""Server-sent events of engines, and the HTTP requests behind a generation.

Of the WHATWG's format (https://html.spec.whatwg.org/multipage/server-sent-events.html), engines use
`data` fields and comments. TGI up to 2.0.4 leaves out the space after the colon.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import closing
from typing import Any

import msgspec

from inference_service.engines import relay
from inference_service.engines.answer import Answer
from inference_service.engines.exchange import Request, lost
from inference_service.engines.http import Connections
from inference_service.errors import EngineFailed
from inference_service.runtimes.base import Instance

_EVENTS, _JSON = "text/event-stream", "application/json"

_BEGIN = b"\n\ndata:"  # the end of an event, and the beginning of the next
_BOM = b"\xef\xbb\xbf"  # may begin a stream
_LARGEST_EVENT = 1 << 20
_LARGEST_REFUSAL = 16 << 10
_SLICE = 32 << 10  # bytes that are parsed at once: of empty lines alone they take 20 ms

# What msgspec raises for bytes that are not the JSON that an engine should send.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Refusal(Exception):
    """An answer with an error status, or of another type than the request wants."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status
        self.body = body

    @property
    def text(self) -> str:
        """The beginning of the body, as one line for people."""
        return " ".join(self.body.decode(errors="replace").split())[:300] or "(empty)"


class EventParser:
    """A parser that cuts bytes into events, wherever the network has split them."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """Return the JSON of each event that `data` completes, on a line of its own.

        Comments are dropped. Lines may begin with a space, and may be empty.
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
        return lines  # each event was one line of data: healthy engines send nothing else
    return b"\n".join(filter(None, map(_data, events.split(b"\n\n"))))


def _data(event: bytes) -> bytes:
    # Lines of one event are joined by a newline, which JSON allows only where it allows a space.
    lines = event.removeprefix(_BOM).split(b"\n")
    return b" ".join(line[5:] for line in lines if line.startswith(b"data:"))


async def post(
    connections: Connections, instance: Instance, path: str, body: Any
) -> AsyncGenerator[bytes]:
    """Send `body` as JSON and yield the events of the answer that have come together.

    `EventParser.feed` describes the format. Closing the generator closes the connection, by which
    the engine learns that its caller has left. Raises Refusal when the answer is no stream of
    events, and EngineLost when the engine breaks off.
    """
    parser = EventParser()
    try:
        with closing(await _asked(connections, instance, path, body, _EVENTS)) as answer:
            async for data in answer:
                for at in range(0, len(data), _SLICE):
                    if at:
                        await asyncio.sleep(0)
                    if lines := parser.feed(data[at : at + _SLICE]):
                        yield lines
    except OSError as error:
        raise lost(error) from error


async def fetch(
    connections: Connections, instance: Instance, path: str, body: Any, most: int = 4 << 20
) -> tuple[bytes, Mapping[bytes, bytes]]:
    """Send `body` as JSON and return the answer's JSON, with its headers.

    At most `most` bytes are read. Cancelling the call closes the connection. Raises what `post`
    raises, and EngineFailed for a larger answer.
    """
    try:
        with closing(await _asked(connections, instance, path, body, _JSON)) as answer:
            content = await _beginning(answer, most + 1)
            if len(content) > most:
                raise EngineFailed(f"sent an answer of more than {most} bytes")
            return content, answer.headers
    except OSError as error:
        raise lost(error) from error


async def _asked(
    connections: Connections, instance: Instance, path: str, body: Any, content_type: str
) -> Answer:
    request = Request("POST", path, msgspec.json.encode(body), _JSON)
    answer = await relay.answer(connections, instance, request)
    if answer.status == 200 and answer.content_type == content_type:
        return answer
    with closing(answer):
        raise Refusal(answer.status, await _beginning(answer, _LARGEST_REFUSAL))


async def _beginning(answer: Answer, size: int) -> bytes:
    body = bytearray()
    async for data in answer:
        body += data
        if len(body) >= size:
            break
    return bytes(body[:size])


async def answers(connections: Connections, instance: Instance, path: str) -> bool:
    """Return whether a GET of `path` gives 200 within a few seconds."""
    try:
        async with asyncio.timeout(5):
            with closing(await relay.answer(connections, instance, Request("GET", path))) as answer:
                return answer.status == 200
    except OSError:  # TimeoutError is one
        return False
