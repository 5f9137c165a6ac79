"""Server-sent events as engines send them, and the one HTTP request behind a generation.

The format is the WHATWG's (https://html.spec.whatwg.org/multipage/server-sent-events.html), of
which engines use `data` fields and comments. TGI up to 2.0.4 leaves out the space after the colon.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import aiohttp
import msgspec

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


def session(*, keep_alive: bool) -> aiohttp.ClientSession:
    """A pool of connections to engines: unlimited, with no limit on a reply's time.

    Time limits belong to the caller, who alone knows how long a text may take.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=not keep_alive),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=30),
    )


async def post(pool: aiohttp.ClientSession, url: str, body: Any) -> AsyncGenerator[list[bytes]]:
    """Send `body` as JSON and yield the events of the answer, as many at once as have come.

    Closing it closes the connection, which is how engines learn that nobody listens. Raises Refusal
    when the engine answers with an error status, and EngineLost when it breaks off.
    """
    parser = EventParser()
    try:
        async with await ask(pool, url, body) as response:
            if response.status != 200 or response.content_type != "text/event-stream":
                raise Refusal(response.status, await _beginning(response.content))
            async for data in response.content.iter_any():
                if events := parser.feed(data):
                    yield events
    except (aiohttp.ClientError, OSError) as error:
        raise EngineLost(
            f"the connection to the engine broke: {error or type(error).__name__}"
        ) from error


async def ask(pool: aiohttp.ClientSession, url: str, body: Any) -> aiohttp.ClientResponse:
    """Send `body` as JSON and return the answer, of which the head has come.

    An engine may close a connection that it kept alive just as it is used again; then nothing of
    the request was read, and it is sent once more.
    """
    data, headers = msgspec.json.encode(body), {"content-type": "application/json"}
    try:
        return await pool.post(url, data=data, headers=headers)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
        return await pool.post(url, data=data, headers=headers)


async def _beginning(content: aiohttp.StreamReader) -> bytes:
    body = b""
    while room := _LARGEST_REFUSAL - len(body):
        data = await content.read(room)  # what has come, which may be a part
        if not data:
            break
        body += data
    return body


async def answers(pool: aiohttp.ClientSession, url: str) -> bool:
    """Whether a GET of `url` gives 200 within a few seconds."""
    try:
        async with pool.get(url, timeout=aiohttp.ClientTimeout(total=5)) as response:
            return response.status == 200
    except (aiohttp.ClientError, OSError):  # TimeoutError is an OSError
        return False
