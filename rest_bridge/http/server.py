"""The server: begins with sockets, and ends in limited time."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable

from starlette.types import ASGIApp

from rest_bridge.http.asgi import Asgi
from rest_bridge.http.exchange import Exchange, Handler
from rest_bridge.http.limits import Limits
from rest_bridge.http.listener import Listener
from rest_bridge.http.log import LOG, Log
from rest_bridge.http.outlet import Address
from rest_bridge.http.shared import Shared

Route = Callable[[Exchange], Handler | None]

_CANCELLING = 1.0  # seconds that handlers have for a last answer


class Server:
    """An ASGI application on HTTP/1.1. Make it within the loop in which it serves.

    `route` can take a request before the application: it returns a handler, or None for a request
    that is the application's.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits | None = None,
        *,
        access_log: bool = False,
        route: Route | None = None,
    ) -> None:
        log = Log(access_log)
        self._asgi = Asgi(app, log)
        self._route = route
        self._shared = Shared(self._begin, limits or Limits(), log)
        self._listener: Listener | None = None
        self._hurry = asyncio.Event()

    def start(self, sockets: Iterable[socket.socket]) -> None:
        """Serve on sockets, which are closed at the end."""
        self._listener = Listener(self._shared, sockets)
        self._listener.start()

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._shared.open)

    def hurry(self) -> None:
        """Have `close` wait for nothing more."""
        self._hurry.set()

    async def close(self, grace: float) -> None:
        """Let requests end for `grace` seconds, then cancel them; return when all is closed."""
        shared = self._shared
        shared.ending = True
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for connection in [*shared.open]:
            connection.end()
        if shared.open:
            shared.emptied.clear()
            LOG.info("waiting for open connections: %d", len(shared.open))
            await self._emptied(grace)
        for connection in [*shared.open]:
            connection.cancel()
        await self._ended(_CANCELLING)
        for connection in [*shared.open]:
            connection.abort()
        for task in self._asgi.tasks:
            task.cancel()
        await self._ended(_CANCELLING)

    def _begin(self, exchange: Exchange, client: Address, server: Address) -> Handler:
        if self._route is not None and (handler := self._route(exchange)) is not None:
            return handler
        return self._asgi.begin(exchange, client, server)

    async def _emptied(self, grace: float) -> None:
        """Return when the last connection has closed, when time is over, or in a hurry."""
        waits = [asyncio.ensure_future(e.wait()) for e in (self._shared.emptied, self._hurry)]
        await asyncio.wait(waits, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    async def _ended(self, limit: float) -> None:
        """Return when all tasks have ended and all connections are closed, or time is over."""
        shared = self._shared
        try:
            async with asyncio.timeout(limit):
                if self._asgi.tasks:
                    await asyncio.wait(self._asgi.tasks)
                if shared.open:
                    shared.emptied.clear()
                    await shared.emptied.wait()
        except TimeoutError:
            pass
