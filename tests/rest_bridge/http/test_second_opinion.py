"""uvicorn serves the same application with the same answers, should we have to go back to it."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn
from starlette.types import ASGIApp

from tests.rest_bridge.http.app import App
from tests.rest_bridge.http.client import GET, Serving, post

ORDINARY = {
    "GET": GET,
    "POST": post(b'{"a": 1}'),
    "chunks": post(b"2\r\n[1\r\n1\r\n]\r\n0\r\n\r\n", b"Transfer-Encoding: chunked"),
    "HEAD": GET.replace(b"GET", b"HEAD"),
    "a query": b"GET /scope?a=b%20c HTTP/1.1\r\nHost: x\r\nX-A: 1\r\nx-a: 2\r\n\r\n",
    "a path with an escape": b"GET /scope/h%C3%A9 HTTP/1.1\r\nHost: x\r\n\r\n",
    "no such route": b"DELETE /none HTTP/1.1\r\nHost: x\r\n\r\n",
    "a fault": b"GET /silent HTTP/1.1\r\nHost: x\r\n\r\n",
    "an answer before the body": post(b"x" * 1000, path=b"/early"),
    "HTTP/1.0": b"GET /hello HTTP/1.0\r\n\r\n",
}


# What two servers say of themselves, and the length of it.
_DIFFER = {"date", "connection", "content-length", "client", "server", "state", "asgi"}


@asynccontextmanager
async def by_uvicorn(app: ASGIApp, http: str) -> AsyncIterator[Serving]:
    """Serve by uvicorn, with one of its parsers."""
    config = uvicorn.Config(
        app, http=http, lifespan="off", log_config=None, server_header=False, proxy_headers=False
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        await server.startup(sockets=[listener])
        try:
            yield Serving(None, listener.getsockname()[1])  # type: ignore[arg-type]
        finally:
            for listening in server.servers:
                listening.close()
            for connection in list(server.server_state.connections):
                connection.shutdown()
            await asyncio.sleep(0)


@pytest.mark.parametrize("http", ["httptools", "h11"])
@pytest.mark.parametrize("request_", ORDINARY.values(), ids=ORDINARY)
async def test_ordinary_requests_are_answered_as_by_uvicorn(
    app: App, served: Serving, request_: bytes, http: str
) -> None:
    method = request_.partition(b" ")[0].decode()
    ours = await served.ask(request_, method=method)
    async with by_uvicorn(app, http) as other:
        theirs = await other.ask(request_, method=method)

    assert ours.status == theirs.status
    if theirs.status != 500:  # uvicorn's is plain text
        assert shown(ours.headers) == shown(theirs.headers)
        assert without_addresses(ours.body) == without_addresses(theirs.body)


def shown(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the headers of the application, and how its answer is framed."""
    return [pair for pair in headers if pair[0] not in _DIFFER]


def without_addresses(body: bytes) -> object:
    """Return a body without what differs between two servers."""
    value = json.loads(body or b"null")
    if not isinstance(value, dict):
        return value
    return {name: of for name, of in value.items() if name not in _DIFFER}
