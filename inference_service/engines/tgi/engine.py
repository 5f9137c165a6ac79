"""Hugging Face text-generation-inference, version 3.

Routes, bounds and messages are those of its `router/src/server.rs` and `router/src/validation.rs`;
log lines those of `launcher/src/main.rs`, at tag v3.3.7.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, closing
from itertools import accumulate
from typing import Any

import msgspec

from inference_service.capacity.claims import GpuNeed
from inference_service.catalog import ModelSpec, TgiNeeds
from inference_service.engines import sse
from inference_service.engines.base import Chunk, Finish, FinishReason, Prompt
from inference_service.engines.http import Connections
from inference_service.engines.stops import StopFilter
from inference_service.engines.tgi import log as tgi_log
from inference_service.engines.tgi.download import Download
from inference_service.errors import (
    EngineFailed,
    EngineLost,
    EngineOverloaded,
    InvalidRequest,
    PromptTooLong,
)
from inference_service.lifecycle import Progress
from inference_service.runtimes.base import Instance, Launch

# TGI finishes the requests that run when it is told to stop, and so do its shards after it: each up
# to this long. The service has drained the model by then, so it seldom takes a second.
_DRAIN_SECONDS = 10

# TGI's own step; see `Tgi.generate`.
_LONGEST_STEP = 1024

_REASONS = {
    "eos_token": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "stop_sequence": FinishReason.STOP_SEQUENCE,
}

# What the router says of a shard that has died under it: tonic's words, through the `ClientError`
# of `backends/v3/src/client`. The whole of TGI ends soon after that.
_LOST = ("transport error", "error trying to connect")

_NO_ROOM = re.compile(r"must be <= (\d+)\. Given: (\d+) `inputs` tokens")


class _Token(msgspec.Struct):
    text: str
    special: bool = False


class _Details(msgspec.Struct):
    finish_reason: str
    generated_tokens: int
    input_length: int = 0  # only of a stream


class _Event(msgspec.Struct):
    token: _Token | None = None
    details: _Details | None = None
    error: str | None = None
    error_type: str = ""


class _WholeDetails(_Details, kw_only=True):
    tokens: list[_Token]


class _Whole(msgspec.Struct):
    details: _WholeDetails


_decoder = msgspec.json.Decoder(_Event)
_whole_decoder = msgspec.json.Decoder(_Whole)
_tokens = msgspec.json.Decoder(list[msgspec.Raw]).decode


class _NoRoom(Exception):
    """Prompt and text together exceed the context; `room` tokens are left for the text."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room


class _Step:
    """One request to TGI: at most `limit` tokens after `text`, and how it ended.

    `whole` says that it is answered in one piece.
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
        """Whether there is more text to be had after it."""
        full = self.reason is FinishReason.LENGTH and self.count >= self.limit
        return full and not self.fills_context

    def note(self, count: int, details: _Details | None) -> None:
        """Note tokens, and the end if they are the last."""
        self.count += count
        if details is not None:
            self.count, self.prompt_tokens = details.generated_tokens, details.input_length
            self.reason = _REASONS.get(details.finish_reason, FinishReason.STOP)
        elif self.count >= self.limit:
            self.reason = FinishReason.LENGTH


class Tgi:
    """The engine `tgi`, in containers of `image`."""

    name = "tgi"

    def __init__(self, image: str) -> None:
        self._image = image
        self._connections = Connections(keep_alive=True)

    def launch(self, spec: ModelSpec) -> Launch:
        """Configure the launcher, all of whose flags have a variable of the same name."""
        needs = spec.tgi
        assert needs is not None, "the catalog has a section for each engine that is chosen"
        return Launch(
            model_id=spec.id,
            image=needs.image or self._image,
            module=None,
            env=_environment(needs) | needs.env,
            cpu_env={"DISABLE_CUSTOM_KERNELS": "true", "CUDA_GRAPHS": "0"},
            address_env=("HOSTNAME", "PORT"),
            memory_bytes=needs.memory,
            gpus=needs.gpus,
            gpu_need=GpuNeed(needs.gpu_memory, _shards(needs)),
            # Its cache takes that part of the GPU less what is in use there, by others too
            # (`get_cuda_free_memory` in server/text_generation_server/utils/import_utils.py).
            gpu_env=("NUM_SHARD", "CUDA_MEMORY_FRACTION"),
            concurrency=_concurrency(needs),
            stop_grace=2 * _DRAIN_SECONDS + 5,
        )

    def progress(self, launch: Launch, instance: Instance) -> AsyncGenerator[Progress]:
        """Merge its log with the bytes of a download, which the log does not count."""
        return Download(launch, instance).progress()

    def cause(self, log: Sequence[str]) -> str:
        """See `tgi_log`."""
        return tgi_log.cause(log)

    async def ready(self, url: str) -> bool:
        """Nothing listens before the model is loaded; `/health` alone is the truth."""
        return await sse.answers(self._connections, f"{url}/health")

    async def generate(
        self, url: str, spec: ModelSpec, prompt: Prompt, *, whole: bool = False
    ) -> AsyncGenerator[Chunk]:
        """Stream `POST /generate_stream`, or get a whole text of `POST /generate`, in steps.

        Each has 1024 tokens at most. Left to itself TGI goes on in such steps too, but each as
        large as the whole request: it gives more tokens than were asked for, or ends long before
        the context does.
        """
        # TGI itself sees a stop sequence only where a token ends: to leave it then, one must look.
        whole = whole and not prompt.stop
        stops = StopFilter(prompt.stop)
        text, last = prompt.text, ""
        prompt_tokens = made = silent = 0
        reason: FinishReason | None = None
        while reason is None:
            step = _Step(text, min(_LONGEST_STEP, prompt.max_new_tokens - made), whole)
            async with aclosing(self._run(url, spec, prompt, step)) as pieces:
                async for tokens in pieces:
                    piece = "".join(tokens)
                    text += piece
                    silent += len(tokens)
                    last += stops.feed(piece)
                    if stops.hit:
                        beyond = len(tokens) - _tokens_to(stops.hit_at, tokens)
                        silent -= beyond
                        step.count -= beyond
                        break
                    if last and step.reason is None:
                        yield Chunk(last, silent)
                        last, silent = "", 0
            made += step.count
            prompt_tokens = prompt_tokens or step.prompt_tokens
            if stops.hit:
                reason = FinishReason.STOP_SEQUENCE
            elif made >= prompt.max_new_tokens or not step.goes_on:
                reason = step.reason
        finish = Finish(reason, prompt_tokens or await self._count(url, prompt), made)
        yield Chunk(last + stops.rest(), silent, finish)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._connections.aclose()

    async def _run(
        self, url: str, spec: ModelSpec, prompt: Prompt, step: _Step
    ) -> AsyncGenerator[list[str]]:
        """Yield the texts of tokens, of fewer where the context has no more."""
        while True:
            try:
                async with aclosing(self._post(url, spec, prompt, step)) as pieces:
                    async for tokens in pieces:
                        yield tokens
                return
            except _NoRoom as error:  # only ever before the first token
                if error.room >= step.limit:
                    raise EngineFailed("refuses a request that fits") from None
                step.limit, step.fills_context = error.room, True
            except PromptTooLong:
                if step.text == prompt.text:
                    raise
                step.reason, step.fills_context = FinishReason.LENGTH, True
                return

    async def _post(
        self, url: str, spec: ModelSpec, prompt: Prompt, step: _Step
    ) -> AsyncGenerator[list[str]]:
        request = _request(prompt, step)
        try:
            if step.whole:
                body, headers = await sse.fetch(self._connections, f"{url}/generate", request)
                tokens, ending = _read_whole(body, headers)
                step.note(len(tokens), ending)
                yield tokens
                return
            stream = sse.post(self._connections, f"{url}/generate_stream", request)
            async with aclosing(stream) as batches:
                async for lines in batches:
                    tokens, details = _read(spec, lines, step.limit - step.count)
                    step.note(len(tokens), details)
                    yield tokens
                    if step.reason is not None:
                        return
        except sse.Refusal as refusal:
            raise _refused(spec, refusal) from None
        raise EngineLost("ended its answer before the text was finished")

    async def _count(self, url: str, prompt: Prompt) -> int:
        """The tokens of the prompt, which TGI else tells only at its own end."""
        try:
            body = msgspec.json.encode({"inputs": prompt.text})
            with closing(await self._connections.ask("POST", f"{url}/tokenize", body)) as answer:
                tokens = b"".join([data async for data in answer])
            return len(_tokens(tokens))
        except (OSError, msgspec.DecodeError) as error:
            raise EngineFailed(f"could not count the prompt's tokens: {error}") from None


def _concurrency(needs: TgiNeeds) -> int:
    """The requests above which TGI answers 429; its own default is 128."""
    value = needs.env.get("MAX_CONCURRENT_REQUESTS", "")
    return int(value) if value.isdecimal() and int(value) else 128


def _shards(needs: TgiNeeds) -> int | None:
    """The number of GPUs that the entry asks for; TGI's own default is all that it sees."""
    value = needs.env.get("NUM_SHARD", "")
    return int(value) if value.isdecimal() and int(value) else None


def _environment(needs: TgiNeeds) -> dict[str, str]:
    return {
        "MODEL_ID": needs.weights.repo,
        "REVISION": needs.weights.revision,
        "HF_HOME": "/data",
        "JSON_OUTPUT": "true",
        "USAGE_STATS": "off",
        "GRACEFUL_TERMINATION_TIMEOUT": str(_DRAIN_SECONDS),
    }


def _request(prompt: Prompt, step: _Step) -> dict[str, Any]:
    """TGI refuses temperature 0, top_p 1 and top_k 0, and samples where a value is given."""
    parameters: dict[str, Any] = {
        "max_new_tokens": step.limit,
        "do_sample": prompt.temperature > 0,
        "details": True,
        "return_full_text": False,
        "stop": prompt.stop,
    }
    if prompt.temperature > 0:
        parameters["temperature"] = prompt.temperature
        if prompt.top_p < 1:
            parameters["top_p"] = prompt.top_p
        if prompt.top_k:
            parameters["top_k"] = prompt.top_k
        if prompt.seed is not None:
            parameters["seed"] = prompt.seed
    if prompt.repetition_penalty != 1:
        parameters["repetition_penalty"] = prompt.repetition_penalty
    return {"inputs": step.text, "parameters": parameters}


def _read(spec: ModelSpec, lines: bytes, most: int) -> tuple[list[str], _Details | None]:
    """The texts of up to so many events' tokens, and how it ended if it did."""
    try:
        events = _decoder.decode_lines(lines)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EngineFailed(f"sent an event that is not its own: {error}") from None
    tokens: list[str] = []
    details = None
    for event in events[:most]:
        if event.error is not None:
            raise _failure(spec, event.error, event.error_type)
        if event.token is not None:
            tokens.append(_text(event.token))
        details = event.details or details
    return tokens, details


def _read_whole(body: bytes, headers: Mapping[bytes, bytes]) -> tuple[list[str], _Details]:
    """The texts of an answer's tokens, and how it ended."""
    try:
        details = _whole_decoder.decode(body).details
        details.input_length = int(headers.get(b"x-prompt-tokens", 0))
    except (msgspec.DecodeError, ValueError) as error:
        raise EngineFailed(f"sent an answer that is not its own: {error}") from None
    return [*map(_text, details.tokens)], details


def _text(token: _Token) -> str:
    return "" if token.special else token.text


def _tokens_to(end: int, tokens: list[str]) -> int:
    """The tokens whose texts together first have so many characters."""
    return bisect_left([*accumulate(map(len, tokens))], end) + 1


def _refused(spec: ModelSpec, refusal: sse.Refusal) -> Exception:
    try:
        event = _decoder.decode(refusal.body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        event = _Event()
    if event.error is not None:
        return _failure(spec, event.error, event.error_type)
    if refusal.status == 413:
        detail = "its engine reads no request as large as this"
        return PromptTooLong(spec.id, spec.context_length, detail)
    return EngineFailed(f"answered HTTP {refusal.status}: {refusal.text}")


def _failure(spec: ModelSpec, message: str, kind: str) -> Exception:
    """What an error of TGI means, by its `error_type`."""
    if kind == "overloaded":
        return EngineOverloaded(spec.id)
    if kind != "validation":
        lost = any(sign in message for sign in _LOST)
        return (EngineLost if lost else EngineFailed)(f"failed: {message}")
    if (match := _NO_ROOM.search(message)) and (room := int(match[1]) - int(match[2])) > 0:
        return _NoRoom(room)
    if match or "must have less than" in message:
        return PromptTooLong(spec.id, spec.context_length, message)
    return InvalidRequest(f"the engine refused the request: {message}")
