"""The engine TGI: text-generation-inference of Hugging Face, version 3."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import aclosing
from itertools import accumulate

from pydantic import Field, model_validator

from inference_service.capacity.claims import GpuNeed
from inference_service.catalog import EngineNeeds, Gpus, ModelSpec, Section, Size
from inference_service.engines import paths, relay, sse
from inference_service.engines.base import Chunk, Finish, FinishReason, NoRoom, Options, Prompt
from inference_service.engines.exchange import Request, Sink
from inference_service.engines.http import Connections
from inference_service.engines.stops import StopFilter
from inference_service.engines.tgi import log as tgi_log
from inference_service.engines.tgi import wire
from inference_service.engines.tgi.download import Download
from inference_service.errors import EngineFailed, EngineLost, PromptTooLong
from inference_service.lifecycle import Progress
from inference_service.runtimes import environment
from inference_service.runtimes.base import Instance, Running
from inference_service.runtimes.command import Command, Needs, Seat, bearer

# At SIGTERM the router finishes its requests, then the shards theirs, in up to this time each. It
# seldom takes a second, because the service has drained the model before. When the router dies, TGI
# waits for its shards so long before it exits, and texts to be resumed wait 10 s for the exit.
_DRAIN_SECONDS = 5

# The variables of an engine that gets no GPU.
_CPU = {"DISABLE_CUSTOM_KERNELS": "true", "CUDA_GRAPHS": "0"}

# The tokens after which TGI goes on in another step of its own; see `Tgi.generate`.
_LONGEST_STEP = 1024

# Of a token in an answer of `/tokenize`: its id, text, begin and end.
_TOKEN_BYTES = 128


class HubWeights(Section):
    """Weights in a repository at Hugging Face."""

    repo: str = Field(pattern=r"^[\w.-]+(/[\w.-]+)?$")
    revision: str = Field(default="main", pattern=r"^[\w./-]+$")


class TgiNeeds(EngineNeeds):
    """The needs of a model that Hugging Face TGI runs.

    `image` replaces that of the settings. `gpus`: `auto` uses GPUs where Docker has them.
    `gpu_memory` is the GPU memory that the model may take for weights, cache and all else; without
    it the model has all GPUs to itself.
    """

    weights: HubWeights
    image: str | None = None
    gpus: Gpus = "auto"
    gpu_memory: Size | None = None

    @model_validator(mode="after")
    def _has_gpu(self) -> TgiNeeds:
        if self.gpus == "none" and self.gpu_memory is not None:
            raise ValueError('has `gpu_memory`, but also `gpus = "none"`')
        return self


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
        pass

    def command(self, spec: ModelSpec, seat: Seat) -> Command:
        # Each flag of TGI's launcher has a variable of the same name.
        needs = spec.needs(TgiNeeds)
        gpu = GpuNeed(needs.gpu_memory, _shards(needs)) if seat.gives(needs.gpus) else None
        flash = gpu is not None and _has_flash(needs.env)
        variables = _environment(needs, spec.context_length, flash=flash)
        variables |= ({} if gpu else _CPU) | _share(seat) | _key(seat) | needs.env
        variables |= {"HOSTNAME": seat.host, "PORT": str(seat.port)}
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
            concurrency=_concurrency(needs, flash=flash),
            stop_grace=2 * _DRAIN_SECONDS + 5,
        )

    def progress(self, command: Command, running: Running) -> AsyncGenerator[Progress]:
        return Download(command, running, self._look_every).progress()

    def cause(self, log: Sequence[str]) -> str:
        return tgi_log.cause(log)

    def longest_token(self, log: Sequence[str]) -> int | None:
        return None

    def control_tokens(self, log: Sequence[str]) -> Sequence[str] | None:
        return None

    def has_chat_template(self, log: Sequence[str]) -> bool | None:
        return None

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
        prompt_tokens = made = unsent = 0
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
                        beyond = len(tokens) - _tokens_to(stops.hit_at, tokens)
                        unsent -= beyond
                        step.count -= beyond
                        break
                    if last and step.reason is None:
                        yield Chunk(last, unsent)
                        last, unsent = "", 0
            made += step.count
            prompt_tokens = prompt_tokens or step.prompt_tokens
            if stops.hit:
                reason = FinishReason.STOP_SEQUENCE
            elif made >= prompt.max_new_tokens or not step.goes_on:
                reason = step.reason
        finish = Finish(reason, prompt_tokens or await self._count(instance, spec, prompt), made)
        yield Chunk(last + stops.rest(), unsent, finish)

    async def ask(self, instance: Instance, request: Request, sink: Sink) -> None:
        await relay.forward(self._connections, instance, request, sink)

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


def _number(env: Mapping[str, str], *names: str) -> int | None:
    """Return the first of these variables that is a number above 0."""
    values = (env.get(name, "") for name in names)
    return next((int(value) for value in values if value.isdecimal() and int(value)), None)


def _concurrency(needs: TgiNeeds, *, flash: bool) -> int:
    """Return the number of requests that TGI works on at once: a batch, or all with flash.

    TGI takes 128 by default, and answers 429 to those above.
    """
    most = _number(needs.env, "MAX_CONCURRENT_REQUESTS") or 128
    return most if flash else min(most, _number(needs.env, "MAX_BATCH_SIZE") or 1)


def _shards(needs: TgiNeeds) -> int | None:
    """Return the number of GPUs that the entry asks for. Without it, TGI takes all it sees."""
    return _number(needs.env, "NUM_SHARD")


def _environment(needs: TgiNeeds, context: int, *, flash: bool) -> dict[str, str]:
    """Return the variables of the engine, which those of the entry replace.

    `flash` tells whether the model has flash attention, which needs a GPU.
    """
    total = _total_tokens(needs.env, context)
    env = {
        "MODEL_ID": needs.weights.repo,
        "REVISION": needs.weights.revision,
        "HF_HOME": "/data",
        "JSON_OUTPUT": "true",
        "USAGE_STATS": "off",
        "GRACEFUL_TERMINATION_TIMEOUT": str(_DRAIN_SECONDS),
        # Without it, TGI takes the context of the model's config.json.
        "MAX_TOTAL_TOKENS": str(total),
    }
    if "MAX_INPUT_LENGTH" not in needs.env:  # the old name; TGI refuses both
        # Without it, the warm-up's prompt can be longer than the total, and TGI subtracts one from
        # the other without a sign (`warmup` in backends/v3/src/client/grpc_client.rs).
        env["MAX_INPUT_TOKENS"] = str(total - 1)
    if not flash:
        # A batch of two fails at its first decode step, with all its requests: transformers 4.51
        # refuses the caches that TGI's `models/causal_lm.py` merges.
        env["MAX_BATCH_SIZE"] = "1"
    if not (flash and _splits_prompts(needs.env)):
        env["MAX_BATCH_PREFILL_TOKENS"] = str(total)
    return env


def _total_tokens(env: Mapping[str, str], context: int) -> int:
    """Return the context in tokens: the entry's variable, or its length with room for its input."""
    longest = _number(env, "MAX_INPUT_TOKENS", "MAX_INPUT_LENGTH") or 0
    return _number(env, "MAX_TOTAL_TOKENS") or max(context, longest + 1)


def _has_flash(env: Mapping[str, str]) -> bool:
    return env.get("USE_FLASH_ATTENTION", "true").lower() != "false"


def _splits_prompts(env: Mapping[str, str]) -> bool:
    """Tell whether TGI with flash attention prefills a long prompt in parts, as by default.

    Where TGI does not, the router refuses a budget below the longest prompt. Where TGI does, it
    finds a budget by the speed and the memory of the GPU, which is better than one from here
    (`support_chunking` in server/text_generation_server/models/model.py).
    """
    attention, speculate = env.get("ATTENTION", "flashinfer"), env.get("SPECULATE", "0")
    splits = env.get("PREFILL_CHUNKING", "1").lower() in ("1", "true")
    return splits and attention != "paged" and speculate == "0"


def _key(seat: Seat) -> dict[str, str]:
    # The launcher passes it to its router as an argument, and prints it (launcher/src/main.rs).
    return {"API_KEY": seat.key} if seat.key else {}


def _share(seat: Seat) -> dict[str, str]:
    """Return the GPUs of the seat, as TGI is told of them.

    TGI's cache takes this fraction of a GPU, less the memory that anybody uses there
    (`get_cuda_free_memory` in server/text_generation_server/utils/import_utils.py).
    """
    if seat.gpus is None:
        return {}
    count, fraction = len(seat.gpus.ids), seat.gpus.rounded
    return {"NUM_SHARD": str(count), "CUDA_MEMORY_FRACTION": str(fraction)}


def _tokens_to(end: int, tokens: list[str]) -> int:
    """Return how many tokens it takes until their texts have so many characters."""
    return bisect_left([*accumulate(map(len, tokens))], end) + 1
