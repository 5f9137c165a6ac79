"""The routes of the router that the service calls, with the router's refusals."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from .errors import InferError
from .generate import Generate
from .metrics import Metrics
from .openai import OpenAi
from .schema import Rejection, Request, decode
from .settings import Settings
from .sse import Hangup, dumps
from .tokenizer import prompt_ids

_GUARDED = (
    *("/generate", "/generate_stream", "/tokenize"),
    *("/v1/completions", "/v1/chat/completions"),
)
_JSON, _TEXT = {"content-type": "application/json"}, {"content-type": "text/plain; charset=utf-8"}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Server:
    """The handlers. `info` is the body of `/info`."""

    settings: Settings
    generation: Generate
    healthy: Callable[[], bool]
    metrics: Metrics
    info: dict[str, object]
    bos: bool

    def app(self) -> web.Application:
        """Return the application. Its runner must cancel handlers whose client has gone."""
        app = web.Application(middlewares=[self._refusals])
        app.on_response_prepare.append(_dress)
        app.add_routes(
            [
                web.post("/generate", self.generate),
                web.post("/generate_stream", self.generate_stream),
                web.post("/tokenize", self.tokenize),
                web.post("/v1/completions", self.completions),
                web.post("/v1/chat/completions", self.chat),
                web.get("/v1/models", OpenAi(self.generation, self.info).models),
                web.get("/health", self.health),
                web.get("/info", self.show_info),
                web.get("/metrics", self.show_metrics),
            ]
        )
        return app

    @web.middleware
    async def _refusals(self, request: web.Request, handler: Handler) -> web.StreamResponse:
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
        if self.settings.api_key is None or request.path not in _GUARDED:
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
        """Answer `POST /generate`."""
        return await self.generation.whole(request, await self._request(request))

    async def generate_stream(self, request: web.Request) -> web.StreamResponse:
        """Answer `POST /generate_stream`."""
        return await self.generation.stream(request, await self._request(request))

    async def completions(self, request: web.Request) -> web.StreamResponse:
        """Answer `POST /v1/completions`."""
        body = await self._body(request)
        return await OpenAi(self.generation, self.info).completions(request, body)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Answer `POST /v1/chat/completions`."""
        return await OpenAi(self.generation, self.info).chat(request, await self._body(request))

    async def tokenize(self, request: web.Request) -> web.StreamResponse:
        """Answer `POST /tokenize`."""
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
        """Answer `GET /health`."""
        if self.healthy():
            return web.Response()
        return _json({"error": "unhealthy", "error_type": "healthcheck"}, 503)

    async def show_info(self, _request: web.Request) -> web.StreamResponse:
        """Answer `GET /info`."""
        return _json(self.info)

    async def show_metrics(self, _request: web.Request) -> web.StreamResponse:
        """Answer `GET /metrics`."""
        return web.Response(body=self.metrics.render().encode(), headers=_TEXT)


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(status=status, body=dumps(value).encode(), headers=_JSON)


async def _dress(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.pop("server", None)
    if response.headers.get("content-type") == "application/octet-stream":
        del response.headers["content-type"]
