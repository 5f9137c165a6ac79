"""The router's routes, with its refusals, headers and metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from aiohttp import web

from .errors import InferError
from .generate import Generate
from .metrics import Metrics
from .schema import Rejection, Request, decode, decode_compat
from .settings import Settings
from .sse import Hangup, dumps
from .tokenizer import prompt_ids

_GUARDED = ("/generate", "/generate_stream", "/tokenize")
_CORS = {
    "access-control-allow-origin": "*",
    "vary": "origin, access-control-request-method, access-control-request-headers",
}
_PREFLIGHT = {
    "access-control-allow-methods": "GET,POST",
    "access-control-allow-headers": "content-type",
}
_JSON, _TEXT = {"content-type": "application/json"}, {"content-type": "text/plain; charset=utf-8"}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Server:
    """What the handlers share. `info` is the body of `/info`."""

    settings: Settings
    generation: Generate
    healthy: Callable[[], bool]
    metrics: Metrics
    info: dict[str, object]
    bos: bool

    def app(self) -> web.Application:
        """The application. Its handlers are to be cancelled when their client goes."""
        app = web.Application(middlewares=[self._refusals])
        app.on_response_prepare.append(_dress)
        app.add_routes(
            [
                web.get("/", self.health),
                web.post("/", self.compat),
                web.post("/generate", self.generate),
                web.post("/generate_stream", self.generate_stream),
                web.post("/tokenize", self.tokenize),
                web.get("/health", self.health),
                web.get("/ping", self.health),
                web.get("/info", self.show_info),
                web.get("/v1/models", self.models),
                web.get("/metrics", self.show_metrics),
            ]
        )
        return app

    @web.middleware
    async def _refusals(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method == "OPTIONS":
            return web.Response(headers=_PREFLIGHT)
        if not self._authorised(request):
            return web.Response(status=401)
        try:
            return await handler(request)
        except Rejection as error:
            return web.Response(status=error.status, body=error.text.encode(), headers=_TEXT)
        except InferError as error:
            self.generation.log_error(error)
            return _json(error.body, error.status)
        except web.HTTPMethodNotAllowed as error:
            return web.Response(status=405, headers={"allow": error.headers["allow"]})
        except web.HTTPNotFound:
            return web.Response(status=404)
        except Hangup:
            assert request.transport is not None
            request.transport.close()
            raise asyncio.CancelledError from None

    def _authorised(self, request: web.Request) -> bool:
        guarded = request.path in _GUARDED or (request.path == "/" and request.method == "POST")
        if self.settings.api_key is None or not guarded:
            return True
        given = request.headers.get("authorization", "")
        return given.lower() == f"bearer {self.settings.api_key}".lower()

    async def _body(self, request: web.Request) -> bytes:
        body = bytearray()
        async for part in request.content.iter_any():
            body += part
            if len(body) > self.settings.payload_limit:
                raise Rejection(413, "Failed to buffer the request body: length limit exceeded")
        return bytes(body)

    async def _request(self, request: web.Request) -> Request:
        return decode(await self._body(request), request.headers.get("content-type", ""))

    async def generate(self, request: web.Request) -> web.StreamResponse:
        return await self.generation.whole(request, await self._request(request), listed=False)

    async def generate_stream(self, request: web.Request) -> web.StreamResponse:
        return await self.generation.stream(request, await self._request(request))

    async def compat(self, request: web.Request) -> web.StreamResponse:
        body = await self._body(request)
        asked, stream = decode_compat(body, request.headers.get("content-type", ""))
        if asked.parameters.return_full_text is None:
            asked = replace(asked, parameters=replace(asked.parameters, return_full_text=True))
        if stream:
            return await self.generation.stream(request, asked)
        return await self.generation.whole(request, asked, listed=True)

    async def tokenize(self, request: web.Request) -> web.StreamResponse:
        asked = await self._request(request)
        source = asked.inputs.encode()
        tokens = [
            {
                "id": piece.id,
                "text": source[piece.start : piece.stop].decode(errors="replace"),
                "start": piece.start,
                "stop": piece.stop,
            }
            for piece in prompt_ids(asked.inputs, self.bos)
        ]
        return _json(tokens)

    async def health(self, _request: web.Request) -> web.StreamResponse:
        if self.healthy():
            return web.Response()
        return _json({"error": "unhealthy", "error_type": "healthcheck"}, 503)

    async def show_info(self, _request: web.Request) -> web.StreamResponse:
        return _json(self.info)

    async def models(self, _request: web.Request) -> web.StreamResponse:
        name = self.info["model_id"]
        model = {"id": name, "object": "model", "created": 0, "owned_by": name}
        return _json({"object": "list", "data": [model]})

    async def show_metrics(self, _request: web.Request) -> web.StreamResponse:
        return web.Response(body=self.metrics.render().encode(), headers=_TEXT)


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(status=status, body=dumps(value).encode(), headers=_JSON)


async def _dress(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_CORS)
    response.headers.pop("server", None)
    if response.headers.get("content-type") == "application/octet-stream":
        del response.headers["content-type"]
