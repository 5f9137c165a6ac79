"""The engine llama.cpp, which `inference_service.worker` serves in a process or in Docker.

Docker uses the image of `deploy/`. The routes are those of llama.cpp's `tools/server/README.md`.
Every request streams, because the server notices only as it writes that its client has left.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from inference_service.catalog import ModelSpec
from inference_service.engines import paths, relay, sse
from inference_service.engines.advice import advised
from inference_service.engines.base import Chunk, Facts, Finish, FinishReason, Prompt
from inference_service.engines.exchange import Options, Request, Sink, Source
from inference_service.engines.http import Connections
from inference_service.engines.llamacpp import asked
from inference_service.engines.llamacpp import log as worker_log
from inference_service.engines.llamacpp.answers import Answer
from inference_service.engines.llamacpp.section import LlamacppNeeds
from inference_service.engines.options import rules, tables
from inference_service.engines.stops import StopFilter
from inference_service.errors import (
    EngineFailed,
    EngineLost,
    EngineOverloaded,
    InvalidRequest,
    PromptTooLong,
    ServiceError,
)
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

_REASONS = {"eos": FinishReason.STOP, "limit": FinishReason.LENGTH}


class _Error(msgspec.Struct):
    message: str = ""
    type: str = ""
    code: int = 0
    n_prompt_tokens: int = 0
    n_ctx: int = 0


class _Event(msgspec.Struct):
    content: str = ""
    stop: bool = False
    stop_type: str = ""
    tokens_evaluated: int = 0
    tokens_predicted: int = 0
    error: _Error | None = None


_KEY = "LLAMACPP_API_KEY"
_CONTEXT_UNIT = 256  # llama.cpp rounds the context of a slot up to a multiple of it

# Without the current folder among the modules (-P), which can be anybody's.
# In UTF-8 whatever the locale is, as llama.cpp takes paths.
_PROGRAM = (sys.executable, "-X", "utf8", "-P", "-m", "inference_service.worker")

_decoder = msgspec.json.Decoder(_Event)


class Llamacpp:
    """The engine `llamacpp`, in containers of `image` or in processes."""

    name = "llamacpp"

    def __init__(self, image: str, connections: Connections | None = None) -> None:
        self._image = image
        # The server promises to keep connections alive, but closes each at the end of its stream.
        self._connections = connections or Connections(keep_alive=False)

    def paths(self, spec: ModelSpec) -> Sequence[str]:
        return paths.LLAMACPP[spec.needs(LlamacppNeeds).serves]

    def check(self, spec: ModelSpec, path: str, options: Options) -> None:
        required = tables.REQUIRED.get(path, ())
        rules.check(spec.id, tables.rules(tables.LLAMACPP, path), options, required)

    def command(self, spec: ModelSpec, seat: Seat) -> Command:
        needs = spec.needs(LlamacppNeeds)
        variables = _environment(spec, needs, seat) | needs.env | _address(seat)
        env, secrets, hub = environment.variables(variables)
        path = needs.weights.path
        return Command(
            model=spec.id,
            image=(needs.image or self._image) if seat.in_container else "",
            program=() if seat.in_container else _PROGRAM,
            watches_input=True,
            env=env,
            secrets=secrets,
            hub=hub,
            reads_token_file=True,
            mounts=(Mount(path, seat.path(path)),) if path else (),
            writes_weights=path is None,
            needs=Needs(needs.memory, container=needs.container),
            port=seat.port,
            port_in=None if seat.in_container else worker_log.port,
            headers=bearer(variables.get(_KEY, "")),
            context=-(-spec.context_length // _CONTEXT_UNIT) * _CONTEXT_UNIT,
            concurrency=needs.slots,
        )

    async def progress(self, command: Command, running: Running) -> AsyncGenerator[Progress]:
        async with aclosing(running.logs()) as lines:
            async for line in lines:
                if (progress := worker_log.progress(line)) is not None:
                    yield progress

    def cause(self, log: Sequence[str]) -> str:
        return advised(worker_log.cause(log))

    def is_lasting(self, log: Sequence[str]) -> bool:
        return worker_log.is_lasting(log)

    def facts(self, log: Sequence[str]) -> Facts | None:
        return worker_log.facts(log)

    async def ready(self, instance: Instance) -> bool:
        return await sse.answers(self._connections, instance, "/health")  # 503 as the model loads

    async def generate(
        self, instance: Instance, spec: ModelSpec, prompt: Prompt, *, whole: bool = False
    ) -> AsyncGenerator[Chunk]:
        try:
            stream = sse.post(self._connections, instance, "/completion", _request(prompt))
            text = _Text(spec, prompt)
            async with aclosing(stream) as batches:
                async for lines in batches:
                    chunk = text.feed(lines)
                    if chunk.text or chunk.finish:
                        yield chunk
                    if chunk.finish:
                        return
        except sse.Refusal as refusal:
            raise _refused(spec, refusal) from None
        raise EngineLost("ended its answer before the text was finished")

    async def ask(self, instance: Instance, request: Request, sink: Sink) -> None:
        """Pass a request on; see `asked` and `answers` for what is mended of it and its answer."""
        if asked.CHOICE in request.options:
            request = asked.chosen(request)
        answer = Answer(request, instance, sink)
        await relay.forward(self._connections, instance, request, answer)

    def ask_now(self, instance: Instance, request: Request, sink: Sink) -> Source | None:
        return None  # each request has a connection of its own

    def parting(self, instance: Instance) -> Collection[asyncio.Future[None]]:
        return self._connections.parting(instance)

    async def aclose(self) -> None:
        await self._connections.aclose()


def _address(seat: Seat) -> dict[str, str]:
    address = {"LLAMACPP_HOST": seat.host, "LLAMACPP_PORT": str(seat.port)}
    if seat.ports is not None:
        address["LLAMACPP_PORTS"] = "{}-{}".format(*seat.ports)
    return address


def _environment(spec: ModelSpec, needs: LlamacppNeeds, seat: Seat) -> dict[str, str]:
    # `worker/__init__.py` describes the environment.
    env = {
        "LLAMACPP_NAME": spec.id,
        "LLAMACPP_CONTEXT": str(spec.context_length),
        "LLAMACPP_SLOTS": str(needs.slots),
    }
    if not seat.in_container:
        env["LLAMACPP_EXIT_WITH_PARENT"] = "1"
    if seat.key:
        env[_KEY] = seat.key
    weights = needs.weights
    if weights.path is not None:
        env["LLAMACPP_FILE"] = seat.path(weights.path)
    if weights.repo is not None and weights.file is not None:
        env |= {"LLAMACPP_REPO": weights.repo, "LLAMACPP_FILE": weights.file}
        env |= {"LLAMACPP_REVISION": weights.revision}
    if weights.sha256 is not None:
        env["LLAMACPP_SHA256"] = weights.sha256
    if needs.threads is not None:
        env["LLAMACPP_THREADS"] = str(needs.threads)
    if needs.serves != "text":
        env["LLAMACPP_SERVES"] = needs.serves
    if needs.pooling is not None:
        env["LLAMACPP_POOLING"] = needs.pooling
    if needs.chat_template is not None:
        env["LLAMACPP_CHAT_TEMPLATE"] = needs.chat_template
    return env


def _request(prompt: Prompt) -> dict[str, Any]:
    """Make the body of a request. Samplers that the contract does not have are off.

    Of stop sequences llama.cpp is told nothing: it would hold text back with which one may begin,
    and drop that text where the limit comes first.
    """
    request: dict[str, Any] = {
        "prompt": prompt.text,
        "n_predict": prompt.max_new_tokens,
        "temperature": prompt.temperature,
        "top_p": prompt.top_p,
        "top_k": prompt.top_k,
        "min_p": 0.0,  # llama.cpp's default is on
        "repeat_penalty": prompt.repetition_penalty,
        "stream": True,
        # The batches of a prompt that is partly in the cache are others, and round differently.
        "cache_prompt": prompt.seed is None and prompt.temperature > 0,
    }
    if prompt.seed is not None:
        request["seed"] = prompt.seed
    return request


class _Text:
    """The text of one answer, as its events come.

    Tokens are counted by llama.cpp: one that is a part of a character has no event of its own. Each
    event but the last has one at least.
    """

    def __init__(self, spec: ModelSpec, prompt: Prompt) -> None:
        self._spec = spec
        self._most = prompt.max_new_tokens
        self._stops = StopFilter(prompt.stop)
        self._sent_tokens = 0
        self._events = 0

    def feed(self, lines: bytes) -> Chunk:
        """Return what the events say that have come together; a chunk without text counts none."""
        try:
            events = _decoder.decode_lines(lines)
        except sse.UNREADABLE as error:
            raise EngineFailed(f"sent an event that is not its own: {error}") from None
        texts: list[str] = []
        tokens = self._sent_tokens
        finish = None
        for event in events:
            if event.error is not None:
                raise _failure(self._spec, event.error)
            texts.append(self._stops.feed(event.content))
            self._events += not event.stop
            tokens = max(tokens, event.tokens_predicted, self._events)
            if (finish := self._finish(event)) is not None:
                break
        if tokens > self._most:
            raise EngineFailed(f"sent more than {self._most} tokens")
        if finish is not None:
            texts.append(self._stops.rest())
        return self._chunk("".join(texts), tokens, finish)

    def _finish(self, event: _Event) -> Finish | None:
        if self._stops.hit:
            reason = FinishReason.STOP_SEQUENCE
        elif event.stop:
            reason = _REASONS.get(event.stop_type, FinishReason.LENGTH)
        else:
            return None
        return Finish(reason, event.tokens_evaluated, event.tokens_predicted)

    def _chunk(self, text: str, tokens: int, finish: Finish | None) -> Chunk:
        if not text and finish is None:
            return Chunk("", 0)
        fresh, self._sent_tokens = tokens - self._sent_tokens, tokens
        return Chunk(text, fresh, finish)


def _refused(spec: ModelSpec, refusal: sse.Refusal) -> ServiceError:
    try:
        error = _decoder.decode(refusal.body).error
    except sse.UNREADABLE:
        error = None
    if error is None:
        return EngineFailed(f"answered HTTP {refusal.status}: {refusal.text}")
    return _failure(spec, error)


def _failure(spec: ModelSpec, error: _Error) -> ServiceError:
    if error.type == "exceed_context_size_error":
        limit = error.n_ctx or spec.context_length
        detail = f"it has {error.n_prompt_tokens} tokens, and {spec.id} reads fewer than {limit}"
        return PromptTooLong(spec.id, spec.context_length, detail)
    if error.code == 429:
        return EngineOverloaded(spec.id)
    if error.code == 400:
        return InvalidRequest(f"the engine refused the request: {error.message}")
    return EngineFailed(f"failed: {error.message}")
