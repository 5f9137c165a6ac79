"""The engine `openai`: a container, a process or a URL that speaks OpenAI's JSON."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing, closing

from inference_service.capacity.claims import USUAL_COUNTS, GpuNeed
from inference_service.catalog import ModelSpec
from inference_service.engines import paths, relay, sse
from inference_service.engines.advice import advised
from inference_service.engines.answer import Answer
from inference_service.engines.base import NO_FACTS, Chunk, Facts, NoRoom, Prompt
from inference_service.engines.exchange import Options, Request, Sink, Source
from inference_service.engines.http import Connections
from inference_service.engines.lasting import is_lasting
from inference_service.engines.openai import answers, wire
from inference_service.engines.openai import log as program_log
from inference_service.engines.openai.section import OpenaiNeeds, fill
from inference_service.engines.options import rules, tables
from inference_service.errors import LaunchError, Unlaunchable
from inference_service.lifecycle import Progress
from inference_service.runtimes import environment
from inference_service.runtimes.base import Instance, Running
from inference_service.runtimes.command import (
    Command,
    Mount,
    Needs,
    Seat,
    bearer,
)

_MODELS = "/v1/models"
_WEIGHTS = "/data"  # where a container sees the volume of all weights
_LARGEST_LIST = 4 << 20  # of models, at a gateway with many


class Openai:
    """The engine `openai`.

    Every request streams, because servers notice only as they write that their client has left.
    """

    name = "openai"

    def __init__(self, connections: Connections | None = None) -> None:
        self._connections = connections or Connections(keep_alive=True)

    def paths(self, spec: ModelSpec) -> Sequence[str]:
        return paths.OPENAI

    def check(self, spec: ModelSpec, path: str, options: Options) -> None:
        needs = spec.needs(OpenaiNeeds)
        table = tables.OPENAI[needs.url is not None, needs.fetches_media]
        found = tables.rules(table, path)
        if needs.drops:
            found = {**found, **rules.names(needs.drops, rules.dropped)}
        rules.check(spec.id, found, options)

    def command(self, spec: ModelSpec, seat: Seat) -> Command:
        needs = spec.needs(OpenaiNeeds)
        values = _values(spec, needs, seat)
        variables = {name: fill(word, values) for name, word in needs.env.items()}
        if needs.key_env is not None and seat.key:
            variables = {needs.key_env: seat.key} | variables
        headers = needs.headers or bearer(variables.get(needs.key_env or "", ""))
        env, secrets, hub = environment.variables(variables, needs.key_env)
        path = needs.weights and needs.weights.path
        words = (*needs.args, *needs.env.values())
        gpu = _gpu_need(needs) if needs.image and seat.gives(needs.gpus) else None
        return Command(
            model=values["served_name"],
            image=needs.image or "",
            program=tuple(fill(word, values) for word in needs.command or ()),
            url=needs.url or "",
            args=tuple(fill(word, values) for word in needs.args),
            env=env,
            secrets={} if needs.url else secrets,
            hub={} if needs.url else hub,
            mounts=(Mount(path, seat.path(path)),) if path else (),
            writes_weights=path is None or any(_WEIGHTS in word for word in words),
            needs=Needs(needs.memory, gpu, needs.container),
            port=needs.port or seat.port,
            headers=headers,
            health=needs.health,
            concurrency=needs.slots,
        )

    async def progress(self, command: Command, running: Running) -> AsyncGenerator[Progress]:
        async with aclosing(running.logs()) as lines:
            async for line in lines:
                if (progress := program_log.progress(line)) is not None:
                    yield progress

    def cause(self, log: Sequence[str]) -> str:
        return advised(program_log.cause(log))

    def is_lasting(self, log: Sequence[str]) -> bool:
        return is_lasting(self.cause(log))

    def facts(self, log: Sequence[str]) -> Facts | None:
        return NO_FACTS

    async def ready(self, instance: Instance) -> bool:
        try:
            async with asyncio.timeout(5):
                if not await self._answers(instance, instance.health):
                    return False
                only = instance.health == _MODELS
                return only or await self._answers(instance, _MODELS, only_says=True)
        except OSError as error:  # TimeoutError is one
            if instance.port:
                return False
            # Whoever runs it does not start it for this service, so there is nothing to wait for.
            cause = str(error) or "no answer within 5 s"
            raise LaunchError(f"{instance.url} cannot be reached: {cause}") from None

    async def generate(
        self, instance: Instance, spec: ModelSpec, prompt: Prompt, *, whole: bool = False
    ) -> AsyncGenerator[Chunk]:
        wire.refuse_what_it_cannot(spec, spec.needs(OpenaiNeeds), prompt)
        limit = prompt.max_new_tokens
        while True:
            try:
                async with aclosing(self._text(instance, spec, prompt, limit)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                return
            except NoRoom as error:  # always before the first token
                limit = error.lower(limit)

    async def ask(self, instance: Instance, request: Request, sink: Sink) -> None:
        """Pass a request on; see `answers` for what is mended of the answer."""
        answer = answers.Answer(request, sink, tells_all=False)
        await relay.forward(self._connections, instance, request, answer)

    def ask_now(self, instance: Instance, request: Request, sink: Sink) -> Source | None:
        answer = answers.Answer(request, sink, tells_all=True)
        return self._connections.ask_now(instance, request, answer)

    def parting(self, instance: Instance) -> Collection[asyncio.Future[None]]:
        return self._connections.parting(instance)

    async def aclose(self) -> None:
        await self._connections.aclose()

    async def _text(
        self, instance: Instance, spec: ModelSpec, prompt: Prompt, limit: int
    ) -> AsyncGenerator[Chunk]:
        """Yield a text of at most `limit` tokens. Raises NoRoom where the context has fewer."""
        needs = spec.needs(OpenaiNeeds)
        body = wire.request(needs, instance.model, prompt, limit)
        text = wire.Text(spec, prompt, server_stops="stop" in needs.names)
        try:
            stream = sse.post(self._connections, instance, "/v1/completions", body)
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

    async def _answers(self, instance: Instance, path: str, *, only_says: bool = False) -> bool:
        """Return whether the engine answers at this path, and says that it has the model.

        With `only_says` the path may be one that the engine does not have. Raises LaunchError where
        waiting is no use.
        """
        address = f"{instance.url}{path}"
        request = Request("GET", path)
        with closing(await relay.answer(self._connections, instance, request)) as answer:
            status, content_type = answer.status, answer.content_type
            if status != 200 and only_says:
                return True
            if status in (401, 403):
                advice = "see `key_file` and `key_env` in the catalog"
                raise Unlaunchable(f"{address} refuses the key of this service; {advice}")
            if status == 404 and not instance.port:
                advice = "see `url` and `health` in the catalog"
                raise Unlaunchable(f"{address} is not there (HTTP 404); {advice}")
            if status != 200:
                return False
            if content_type == "text/html":
                advice = "see `url` and `health` in the catalog"
                raise Unlaunchable(f"{address} is a page for people, and no engine; {advice}")
            names = None
            if path == _MODELS:
                body = await _body(answer)
                if len(body) > _LARGEST_LIST:
                    return False
                names = wire.model_names(body)
        return _has(instance.model, names) or only_says


def _has(model: str, names: list[str] | None) -> bool:
    """Return whether a list of models has this one; a list that is empty may still grow."""
    if names and model not in names:
        known = ", ".join(map(repr, names[:5]))
        raise Unlaunchable(f"the engine serves {known}, and not {model!r}; see `served_name`")
    return names is None or bool(names)


async def _body(answer: Answer) -> bytes:
    """Return the body, or more than `_LARGEST_LIST` bytes of it."""
    body = bytearray()
    async for data in answer:
        body += data
        if len(body) > _LARGEST_LIST:
            break
    return bytes(body)


def _gpu_need(needs: OpenaiNeeds) -> GpuNeed:
    """Return the need of an engine; one that is not told a number divides itself as it can."""
    all_of_them = needs.gpu_memory is None and needs.is_told_gpus
    counts = needs.gpu_counts or (USUAL_COUNTS if all_of_them else ())
    return GpuNeed(needs.gpu_memory, counts=counts)


def _values(spec: ModelSpec, needs: OpenaiNeeds, seat: Seat) -> dict[str, str]:
    """Return what the placeholders of an entry stand for."""
    fraction, count = 0.9, 1  # of an engine that has all GPUs to itself; 0.9 is vLLM's default
    if seat.gpus is not None:
        fraction, count = seat.gpus.rounded, len(seat.gpus.ids)
    return {
        "host": seat.host,
        "port": str(seat.port),
        "served_name": needs.served_name or spec.id,
        "context_length": str(spec.context_length),
        "weights": seat.path(needs.weights.path) if needs.weights else "",
        "gpus": str(count),
        "gpu_fraction": str(fraction),
    }
