"""Server-sent events as engines send them, and the one HTTP request behind a generation.

The format is the WHATWG's (https://html.spec.whatwg.org/multipage/server-sent-events.html), of
which engines use `data` fields and comments. TGI up to 2.0.4 leaves out the space after the colon.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import closing
from typing import Any

import msgspec

from inference_service.engines.connections import Answer, Connections
from inference_service.errors import EngineFailed, EngineLost

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

    def feed(self, data: bytes) -> list[bytes]:
        """The data of each event that `data` completes; comments are dropped."""
        data = self._rest + data
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        *events, self._rest = data.split(b"\n\n")
        if len(self._rest) > _LARGEST_EVENT:
            raise EngineFailed("the engine sent an event of more than 1 MiB")
        return [body for event in events if (body := _data(event))]


def _data(event: bytes) -> bytes:
    if event.startswith(b"data:") and b"\n" not in event:  # all that a healthy engine sends
        return event[5:].removeprefix(b" ")
    lines = (line[5:].removeprefix(b" ") for line in event.split(b"\n") if line[:5] == b"data:")
    return b"\n".join(lines)


async def post(connections: Connections, url: str, body: Any) -> AsyncGenerator[list[bytes]]:
    """Send `body` as JSON and yield the events of the answer, as many at once as have come.

    Closing it closes the connection, which is how engines learn that nobody listens. Raises Refusal
    when the engine answers with an error status, and EngineLost when it breaks off.
    """
    parser = EventParser()
    try:
        with closing(await connections.ask("POST", url, msgspec.json.encode(body))) as answer:
            if answer.status != 200 or answer.content_type != "text/event-stream":
                raise Refusal(answer.status, await _beginning(answer))
            async for data in answer:
                if events := parser.feed(data):
                    yield events
    except OSError as error:
        raise EngineLost(
            f"the connection to the engine broke: {error or type(error).__name__}"
        ) from error


async def _beginning(answer: Answer) -> bytes:
    body = b""
    async for data in answer:
        body += data
        if len(body) >= _LARGEST_REFUSAL:
            break
    return body[:_LARGEST_REFUSAL]


async def answers(connections: Connections, url: str) -> bool:
    """Whether a GET of `url` gives 200 within a few seconds."""
    try:
        async with asyncio.timeout(5):
            with closing(await connections.ask("GET", url)) as answer:
                return answer.status == 200
    except OSError:  # TimeoutError is one
        return False
