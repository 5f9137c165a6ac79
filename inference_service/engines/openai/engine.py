"""The engine `openai`: a container, a process or a URL that speaks OpenAI's JSON."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, closing

from inference_service.catalog import ModelSpec
from inference_service.engines import sse
from inference_service.engines.base import Chunk, Prompt
from inference_service.engines.http import Connections
from inference_service.engines.openai import log as program_log
from inference_service.engines.openai import wire
from inference_service.engines.openai.section import OpenaiNeeds
from inference_service.errors import EngineFailed

_MODELS = "/v1/models"
_LARGEST_LIST = 4 << 20  # of models, at a gateway with many


class Unfit(Exception):
    """An engine that answers, and that cannot serve this model however long one waits."""


def _serves(served: str, names: list[str] | None) -> bool:
    """Return whether a list of models has this one. Raises Unfit where it has only others."""
    if names and served not in names:
        known = ", ".join(map(repr, names[:5]))
        raise Unfit(f"the engine serves {known}, and not {served!r}; see `served_name`")
    return names is None or bool(names)


class Openai:
    """The engine `openai`.

    Every request streams, because servers notice only as they write that their client has left.
    """

    name = "openai"

    def __init__(self, connections: Connections | None = None) -> None:
        self._connections = connections or Connections(keep_alive=True)

    def cause(self, log: Sequence[str]) -> str:
        return program_log.cause(log)

    async def ready(self, url: str, spec: ModelSpec, needs: OpenaiNeeds) -> bool:
        """Return whether the engine answers, and serves this model.

        Raises Unfit where waiting is no use.
        """
        served = needs.served_name or spec.id
        try:
            async with asyncio.timeout(5):
                if not await self._healthy(url, needs, served):
                    return False
                if needs.health != _MODELS:
                    status, _, body = await self._get(f"{url}{_MODELS}")
                    if status == 200:
                        return _serves(served, wire.model_names(body))
                return True
        except OSError:  # TimeoutError is one
            return False

    async def generate(
        self, url: str, spec: ModelSpec, needs: OpenaiNeeds, prompt: Prompt
    ) -> AsyncGenerator[Chunk]:
        wire.refuse_what_it_cannot(spec, needs, prompt)
        limit = prompt.max_new_tokens
        while True:
            try:
                async with aclosing(self._text(url, spec, needs, prompt, limit)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                return
            except wire.NoRoom as error:  # always before the first token
                if error.room >= limit:
                    raise EngineFailed("refuses a request that fits") from None
                limit = error.room

    async def _healthy(self, url: str, needs: OpenaiNeeds, served: str) -> bool:
        status, content_type, body = await self._get(f"{url}{needs.health}")
        if status in (401, 403):
            raise Unfit(f"{url} refuses the key of this service (HTTP {status}); see `key_file`")
        if status == 404 and needs.url is not None:
            raise Unfit(f"{url}{needs.health} is not there (HTTP 404); see `url` and `health`")
        if status != 200:
            return False
        if content_type == "text/html":
            raise Unfit(f"{url}{needs.health} is a page for people, and no engine; see `url`")
        return needs.health != _MODELS or _serves(served, wire.model_names(body))

    async def _get(self, url: str) -> tuple[int, str, bytes]:
        with closing(await self._connections.ask("GET", url)) as answer:
            body = b""
            async for data in answer:
                body += data
                if len(body) > _LARGEST_LIST:
                    break
            return answer.status, answer.content_type, body

    async def aclose(self) -> None:
        await self._connections.aclose()

    async def _text(
        self, url: str, spec: ModelSpec, needs: OpenaiNeeds, prompt: Prompt, limit: int
    ) -> AsyncGenerator[Chunk]:
        """Yield a text of at most `limit` tokens. Raises NoRoom where the context has fewer."""
        body = wire.request(needs, needs.served_name or spec.id, prompt, limit)
        text = wire.Text(spec, prompt, server_stops="stop" in needs.names)
        try:
            stream = sse.post(self._connections, f"{url}/v1/completions", body)
            async with aclosing(stream) as batches:
                async for lines in batches:
                    text.feed(lines)
                    if text.ended:
                        break
                    if (chunk := text.chunk()) is not None:
                        yield chunk
        except sse.Refusal as refusal:
            raise wire.refused(spec, refusal) from None
        yield text.last()
