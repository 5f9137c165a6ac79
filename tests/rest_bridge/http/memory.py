"""A connection without a socket, for tests that need ten thousand of them."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from starlette.types import Receive, Scope, Send

from rest_bridge.http import Limits
from rest_bridge.http.asgi import Asgi
from rest_bridge.http.connection import Connection
from rest_bridge.http.log import Log
from rest_bridge.http.shared import Shared
from tests.rest_bridge.http.app import piece, start

_DATE = re.compile(rb"date: [^\r]*\r\n")


class Seen(NamedTuple):
    """A request as the application gets it."""

    method: str
    target: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes


@dataclass
class Outcome:
    """What a client gets for its bytes, and what the application sees of them."""

    sent: bytes = b""
    closed: bool = False  # or at least ended
    seen: list[Seen] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


class Transport(asyncio.Transport):
    """The other side of a connection."""

    def __init__(self, protocol: Connection) -> None:
        super().__init__()
        self.protocol = protocol
        self.sent = bytearray()
        self.closed = self.ended = False

    def write(self, data: Any) -> None:
        assert not self.ended
        self.sent += data

    def write_eof(self) -> None:
        self.ended = True

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        if not self.closed:
            self.closed = self.ended = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def abort(self) -> None:
        self.close()


class Memory:
    """A server without sockets, whose application answers each request with its body."""

    def __init__(self) -> None:
        log = Log()
        self.outcome = Outcome()
        log.fault = lambda error: self.outcome.faults.append(repr(error))  # type: ignore[method-assign]
        log.warn = lambda *_: None  # type: ignore[method-assign]
        asgi = Asgi(self._app, log)
        self.shared = Shared(asgi.begin, Limits(), log)

    async def ask(self, *segments: bytes) -> Outcome:
        """Return what comes of segments, each of which is read on its own."""
        self.outcome = outcome = Outcome()
        connection = Connection(self.shared)
        transport = Transport(connection)
        connection.connection_made(transport)
        for segment in segments:
            for at in range(0, len(segment), len(self.shared.buffer)):
                part = segment[at : at + len(self.shared.buffer)]
                if not transport.closed:
                    connection.get_buffer(-1)[: len(part)] = part
                    connection.buffer_updated(len(part))
            await asyncio.sleep(0)
        for _ in range(4 + 3 * len(outcome.seen)):
            await asyncio.sleep(0)
        outcome.closed = transport.ended
        transport.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        outcome.sent = _DATE.sub(b"", bytes(transport.sent))
        return outcome

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            if not message["more_body"]:
                break
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        seen = Seen(scope["method"], scope["raw_path"] + query, scope["headers"], body)
        self.outcome.seen.append(seen)
        await start(send, (b"content-length", b"%d" % len(body)))
        await send(piece(body, more=False))
