"""An ASGI application whose answers a test holds in its hand."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.types import Message, Receive, Scope, Send

EVENT = b"data: 1\n\n"
_JSON = [(b"content-type", b"application/json")]


class App:
    """The application, and what a test does with it: it lets routes go on, and sees who left."""

    def __init__(self) -> None:
        self.go = asyncio.Event()  # /slow answers, /events sends one event more
        self.began = asyncio.Event()  # a route waits for `go`
        self.left = asyncio.Event()  # the client of a route that waits has left
        self.calls: list[tuple[str, str]] = []
        self.taken = 0  # bytes that the server has taken from /flood

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path = scope["method"], scope["path"]
        self.calls.append((method, path))
        name = path.removeprefix("/").partition("/")[0] or "none"
        route = getattr(self, f"_{name}", self._missing)
        await route(scope, receive, send)

    async def _hello(self, scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, {"hello": True})

    async def _echo(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the body, or with 400 when it is no JSON."""
        parts = []
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.left.set()
                return
            parts.append(message["body"])
            if not message["more_body"]:
                break
        try:
            await answer(send, {"got": json.loads(b"".join(parts))})
        except ValueError:
            await answer(send, {"detail": f"no JSON: {b''.join(parts)[:60]!r}"}, 400)

    async def _scope(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with what the server says of the request."""
        shown: dict[str, Any] = {
            key: value.decode("latin-1") if isinstance(value, bytes) else value
            for key, value in scope.items()
            if key != "headers"
        }
        pairs = scope["headers"]
        shown["headers"] = [[n.decode("latin-1"), v.decode("latin-1")] for n, v in pairs]
        await answer(send, shown)

    async def _slow(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer when the test lets it, or end when the client has left."""
        if await self._waits(receive):
            await answer(send, {"slow": True})

    async def _events(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send an event each time that the test lets it."""
        await start(send, (b"content-type", b"text/event-stream"))
        while await self._waits(receive):
            await send(piece(EVENT))
            self.go.clear()

    async def _broken(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Fail in the middle of the answer."""
        await start(send)
        await send(piece(b"the beginning"))
        await asyncio.sleep(0)
        raise RuntimeError("a fault on purpose")

    async def _fault(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("a fault on purpose")

    async def _silent(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Return without an answer."""

    async def _early(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer without a look at the body."""
        await answer(send, {"detail": "too large"}, 413)

    async def _unread(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read no body until the test lets it, then answer with its size."""
        self.began.set()
        await self.go.wait()
        size = 0
        while (message := await receive())["type"] == "http.request":
            size += len(message["body"])
            if not message["more_body"]:
                break
        await answer(send, {"size": size})

    async def _flood(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send as much as the client takes, up to 300 MB."""
        await start(send)
        block = b"x" * 65536
        gone = asyncio.ensure_future(_disconnected(receive))
        while self.taken < 300_000_000 and not gone.done():
            await send(piece(block))
            self.taken += len(block)
            await asyncio.sleep(0)
        gone.cancel()

    async def _missing(self, scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, {"detail": "Not Found"}, 404)

    async def _waits(self, receive: Receive) -> bool:
        """Return when the test says so, or with False when the client has left."""
        self.began.set()
        gone = asyncio.ensure_future(_disconnected(receive))
        going = asyncio.ensure_future(self.go.wait())
        try:
            await asyncio.wait([gone, going], return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                self.left.set()
            return not gone.done()
        finally:
            gone.cancel()
            going.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def start(send: Send, *headers: tuple[bytes, bytes], status: int = 200) -> None:
    """Send a head."""
    await send({"type": "http.response.start", "status": status, "headers": headers})


def piece(body: bytes, more: bool = True) -> Message:
    """Return a part of a body."""
    return {"type": "http.response.body", "body": body, "more_body": more}


async def answer(send: Send, value: object, status: int = 200) -> None:
    """Send an answer in JSON."""
    body = json.dumps(value).encode()
    length = (b"content-length", b"%d" % len(body))
    await start(send, *_JSON, (b"x-app", b"1"), length, status=status)
    await send(piece(body, more=False))
