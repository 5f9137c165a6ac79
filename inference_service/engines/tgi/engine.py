"""The engine TGI: text-generation-inference of Hugging Face, version 3."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing
from itertools import accumulate

from inference_service.catalog import ModelSpec
from inference_service.engines import paths, relay, sse
from inference_service.engines.advice import advised
from inference_service.engines.base import (
    NO_FACTS,
    Chunk,
    Facts,
    Finish,
    FinishReason,
    NoRoom,
    Prompt,
)
from inference_service.engines.exchange import Options, Request, Sink, Source
from inference_service.engines.http import Connections
from inference_service.engines.lasting import is_lasting
from inference_service.engines.options import rules
from inference_service.engines.stops import StopFilter
from inference_service.engines.tgi import asked, launch, wire
from inference_service.engines.tgi import log as tgi_log
from inference_service.engines.tgi import options as tgi_options
from inference_service.engines.tgi.answers import Answer
from inference_service.engines.tgi.download import Download
from inference_service.engines.tgi.section import TgiNeeds
from inference_service.errors import EngineFailed, EngineLost, PromptTooLong
from inference_service.lifecycle import Progress
from inference_service.runtimes import environment
from inference_service.runtimes.base import Instance, Running
from inference_service.runtimes.command import Command, Needs, Seat, bearer

# The tokens after which TGI goes on in another step of its own; see `Tgi.generate`.
_LONGEST_STEP = 1024

# Of a token in an answer of `/tokenize`: its id, text, begin and end.
_TOKEN_BYTES = 128


class _Step:
    """One request to TGI for at most `limit` tokens after `text`, and its end.

    With `whole`, TGI answers in one piece.
    """

    def __init__(self, text: str, limit: int, whole: bool) -> None:
        self.text = text
        self.limit = limit
        self.whole = whole
        self.count = 0
        self.prompt_tokens = 0
        self.reason: FinishReason | None = None
        self.fills_context = False

    @property
    def goes_on(self) -> bool:
        """True where another step can continue the text."""
        full = self.reason is FinishReason.LENGTH and self.count >= self.limit
        return full and not self.fills_context

    def note(self, count: int, details: wire.Details | None) -> None:
        """Note tokens, and the end of the step if they are its last."""
        self.count += count
        if details is not None:
            self.count, self.prompt_tokens = details.generated_tokens, details.input_length
            self.reason = details.reason
        elif self.count >= self.limit:
            self.reason = FinishReason.LENGTH


class Tgi:
    """The engine `tgi`, in containers of `image`.

    `look_every` is the pause in seconds between two looks at the bytes of a download: each look is
    a process in the container.
    """

    name = "tgi"

    def __init__(
        self, image: str, *, look_every: float = 2.0, connections: Connections | None = None
    ) -> None:
        self._image = image
        self._look_every = look_every
        self._connections = connections or Connections(keep_alive=True)

    def paths(self, spec: ModelSpec) -> Sequence[str]:
        return paths.TGI

    def check(self, spec: ModelSpec, path: str, options: Options) -> None:
        rules.check(spec.id, tgi_options.rules(path, spec.needs(TgiNeeds).env), options)

    def command(self, spec: ModelSpec, seat: Seat) -> Command:
        needs = spec.needs(TgiNeeds)
        gpu = launch.gpu_need(needs) if seat.gives(needs.gpus) else None
        flash = gpu is not None and launch.has_flash(needs.env)
        variables = launch.variables(needs, spec.context_length, seat, gpu=gpu is not None)
        env, secrets, hub = environment.variables(variables)
        return Command(
            model=spec.id,
            image=needs.image or self._image,
            env=env,
            secrets=secrets,
            hub=hub,
            needs=Needs(needs.memory, gpu, needs.container),
            port=seat.port,
            headers=bearer(variables.get("API_KEY", "")),
            concurrency=launch.concurrency(needs, flash=flash),
            stop_grace=2 * launch.DRAIN_SECONDS + 5,
        )

    def progress(self, command: Command, running: Running) -> AsyncGenerator[Progress]:
        return Download(command, running, self._look_every).progress()

    def cause(self, log: Sequence[str]) -> str:
        return advised(tgi_log.cause(log))

    def is_lasting(self, log: Sequence[str]) -> bool:
        return is_lasting(self.cause(log))

    def facts(self, log: Sequence[str]) -> Facts | None:
        return NO_FACTS

    async def ready(self, instance: Instance) -> bool:
        # Nothing listens before the model is loaded. The log can be wrong, `/health` is not.
        return await sse.answers(self._connections, instance, "/health")

    async def generate(
        self, instance: Instance, spec: ModelSpec, prompt: Prompt, *, whole: bool = False
    ) -> AsyncGenerator[Chunk]:
        """Yield the text of `/generate_stream`, or the whole one of `/generate`, in steps.

        A step has at most 1024 tokens. TGI makes such steps itself, but asks in each for all tokens
        of the request: it gives more tokens than the request has, or ends long before the context.
        """
        # TGI finds a stop sequence only where a token ends. To end a text within a token, the text
        # must be read as it comes.
        whole = whole and not prompt.stop
        stops = StopFilter(prompt.stop)
        text, last = prompt.text, ""
        prompt_tokens = made = unsent = sent = 0
        reason: FinishReason | None = None
        while reason is None:
            step = _Step(text, min(_LONGEST_STEP, prompt.max_new_tokens - made), whole)
            async with aclosing(self._run(instance, spec, prompt, step)) as pieces:
                async for tokens in pieces:
                    piece = "".join(tokens)
                    text += piece
                    unsent += len(tokens)
                    last += stops.feed(piece)
                    if stops.hit:
                        step.count -= len(tokens) - _tokens_to(stops.hit_at, tokens)
                        break
                    if last and step.reason is None:
                        yield Chunk(last, unsent)
                        sent += unsent
                        last, unsent = "", 0
            made += step.count
            prompt_tokens = prompt_tokens or step.prompt_tokens
            if stops.hit:
                reason = FinishReason.STOP_SEQUENCE
            elif made >= prompt.max_new_tokens or not step.goes_on:
                reason = step.reason
        finish = Finish(reason, prompt_tokens or await self._count(instance, spec, prompt), made)
        yield Chunk(last + stops.rest(), max(0, made - sent), finish)

    async def ask(self, instance: Instance, request: Request, sink: Sink) -> None:
        """Pass a request on; one in OpenAI's JSON is translated, and so is its answer."""
        if request.path.partition("?")[0] not in asked.PATHS:
            await relay.forward(self._connections, instance, request, sink)
            return
        request, wanted = asked.translated(request, instance.model)
        answer = Answer(wanted, sink)
        await relay.forward(self._connections, instance, request, answer)
        if answer.failure is not None:
            raise answer.failure

    def ask_now(self, instance: Instance, request: Request, sink: Sink) -> Source | None:
        if request.path.partition("?")[0] in asked.PATHS:
            return None
        return self._connections.ask_now(instance, request, sink)

    def parting(self, instance: Instance) -> Collection[asyncio.Future[None]]:
        return self._connections.parting(instance)

    async def aclose(self) -> None:
        await self._connections.aclose()

    async def _run(
        self, instance: Instance, spec: ModelSpec, prompt: Prompt, step: _Step
    ) -> AsyncGenerator[list[str]]:
        """Yield the texts of tokens, asking for fewer tokens where the context has less room."""
        while True:
            try:
                async with aclosing(self._post(instance, spec, prompt, step)) as pieces:
                    async for tokens in pieces:
                        yield tokens
                return
            except NoRoom as error:  # always before the first token
                step.limit, step.fills_context = error.lower(step.limit), True
            except PromptTooLong:
                if step.text == prompt.text:
                    raise
                step.reason, step.fills_context = FinishReason.LENGTH, True
                return

    async def _post(
        self, instance: Instance, spec: ModelSpec, prompt: Prompt, step: _Step
    ) -> AsyncGenerator[list[str]]:
        request = wire.request(prompt, step.text, step.limit)
        try:
            if step.whole:
                body, headers = await sse.fetch(self._connections, instance, "/generate", request)
                tokens, ending = wire.read_whole(body, headers, step.limit)
                step.note(len(tokens), ending)
                yield tokens
                return
            stream = sse.post(self._connections, instance, "/generate_stream", request)
            async with aclosing(stream) as batches:
                async for lines in batches:
                    tokens, details = wire.read(spec, lines, step.limit - step.count)
                    step.note(len(tokens), details)
                    yield tokens
                    if step.reason is not None:
                        return
        except sse.Refusal as refusal:
            raise wire.refused(spec, refusal) from None
        raise EngineLost("ended its answer before the text was finished")

    async def _count(self, instance: Instance, spec: ModelSpec, prompt: Prompt) -> int:
        """Count the prompt's tokens, which TGI reports only at an end of its own."""
        most = _TOKEN_BYTES * spec.context_length + (1 << 16)
        body = {"inputs": prompt.text}
        try:
            answer, _ = await sse.fetch(self._connections, instance, "/tokenize", body, most)
            return wire.count(answer)
        except sse.Refusal as refusal:
            cause = f"HTTP {refusal.status}: {refusal.text}"
            raise EngineFailed(f"could not count the prompt's tokens: {cause}") from None
        except sse.UNREADABLE as error:
            raise EngineFailed(f"could not count the prompt's tokens: {error}") from None


def _tokens_to(end: int, tokens: list[str]) -> int:
    """Return how many tokens it takes until their texts have so many characters."""
    return bisect_left([*accumulate(map(len, tokens))], end) + 1
