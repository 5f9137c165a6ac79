"""An ASGI application as a handler (https://asgi.readthedocs.io/en/latest/specs/www.html)."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import unquote

from starlette.types import ASGIApp, Message, Scope

from rest_bridge.http.exchange import Exchange
from rest_bridge.http.log import Log
from rest_bridge.http.outlet import Address

_ASGI = {"version": "3.0", "spec_version": "2.3"}  # in 2.4 a send to nobody is an error


class Asgi:
    """An application, with the tasks in which it answers."""

    def __init__(self, app: ASGIApp, log: Log) -> None:
        self._app = app
        self._log = log
        self.tasks: set[asyncio.Task[None]] = set()

    def begin(self, exchange: Exchange, client: Address, server: Address) -> Call:
        """Answer a request in a task of its own."""
        call = Call(exchange)
        answering = self._answer(call, _scope(exchange, client, server))
        call.task = asyncio.get_running_loop().create_task(answering)
        self.tasks.add(call.task)
        return call

    async def _answer(self, call: Call, scope: Scope) -> None:
        try:
            await self._app(scope, call.receive, call.send)
        except Exception as error:
            if not call.exchange.left:
                self._log.fault(error)
        finally:
            call.exchange.fail()
            if call.task is not None:
                self.tasks.discard(call.task)


class Call:
    """One call of the application: the handler of an exchange."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.task: asyncio.Task[None] | None = None
        self._given = False  # the application has the whole body
        self._readable: asyncio.Event | None = None
        self._writable: asyncio.Event | None = None

    async def receive(self) -> Message:
        """Return a part of the body; after the last one, wait until the client has left."""
        exchange = self.exchange
        while not self._given:
            if exchange.left or exchange.answer.done:
                break
            if (body := exchange.take()) or exchange.whole:
                self._given = exchange.whole
                return {"type": "http.request", "body": body, "more_body": not exchange.whole}
            await self._change()
        while not (exchange.left or exchange.answer.done):
            await self._change()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Send the head or a part of the body, when the client reads."""
        exchange = self.exchange
        kind = message["type"]
        if kind == "http.response.body":
            if exchange.slow and not exchange.left:
                await self._drained()
            more = message.get("more_body", False)
            exchange.write(message.get("body", b""), more)
            if not more and self._readable is not None:
                self._readable.set()
        elif kind == "http.response.start":
            exchange.head(message["status"], message.get("headers", ()))
        else:
            raise ValueError(f"no message of an answer: {kind}")

    def on_body(self) -> None:
        """Wake the application."""
        if self._readable is not None:
            self._readable.set()

    def on_drained(self) -> None:
        """Let the application write on."""
        if self._writable is not None:
            self._writable.set()

    def on_closed(self, by_server: bool) -> None:
        """Report a disconnect, or cancel the application when the server ends."""
        self.on_body()
        self.on_drained()
        if by_server and self.task is not None:
            self.task.cancel()

    async def _change(self) -> None:
        if self._readable is None:
            self._readable = asyncio.Event()
        self._readable.clear()
        await self._readable.wait()

    async def _drained(self) -> None:
        if self._writable is None:
            self._writable = asyncio.Event()
        while self.exchange.slow and not self.exchange.left:
            self._writable.clear()
            await self._writable.wait()


def _scope(exchange: Exchange, client: Address, server: Address) -> dict[str, Any]:
    request = exchange.request
    path = request.path.decode("ascii")
    return {
        "type": "http",
        "asgi": _ASGI,
        "http_version": request.version,
        "method": request.method,
        "scheme": "http",
        "path": unquote(path) if "%" in path else path,
        "raw_path": request.path,
        "query_string": request.query,
        "root_path": "",
        "headers": request.headers,
        "client": client,
        "server": server,
    }
