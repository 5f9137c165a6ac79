"""Requests as generations: their permits, and the further chunks of long outputs."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from .backend import Backend
from .errors import IncompleteGeneration, InferError, Overloaded, ValidationError
from .model import GeneratedText, Step, Token
from .schema import Request
from .validation import Validation, ValidRequest


@dataclass
class Generation:
    """A whole generation, for an answer in one piece."""

    input_tokens: int
    tokens: list[Token] = field(default_factory=list)
    end: GeneratedText | None = None

    @property
    def text(self) -> GeneratedText:
        """The end of the generation. Raises IncompleteGeneration before there is one."""
        if self.end is None:
            raise IncompleteGeneration
        return self.end

    def details(self) -> dict[str, Any]:
        """Return the `details` of the answer.

        `prefill` is empty, as in a server that was started without ENABLE_PREFILL_LOGPROBS.
        """
        end = self.text
        return {
            "finish_reason": end.finish_reason,
            "generated_tokens": end.generated_tokens,
            "seed": end.seed,
            "prefill": [],
            "tokens": [token._asdict() for token in self.tokens],
        }


class Infer:
    """The way of a request to its steps, with the permits of MAX_CONCURRENT_REQUESTS."""

    def __init__(self, backend: Backend, validation: Validation, permits: int) -> None:
        self._backend = backend
        self._validation = validation
        self._permits = permits

    async def stream(self, request: Request) -> AsyncGenerator[ValidRequest | Step]:
        """Yield the validated request, then its steps. The stream holds a permit until it closes.

        An output that fills its chunk and is shorter than asked for is queued again, with its own
        text after the prompt and the same `max_new_tokens`. So a long output ends at a multiple of
        the chunk.
        """
        if not self._permits:
            raise Overloaded
        self._permits -= 1
        try:
            valid = self._validation.validate(request)
            yield valid
            parameters = replace(request.parameters, seed=valid.seed)
            request = replace(request, parameters=parameters)
            async with aclosing(self._chunks(request, valid)) as chunks:
                async for step in chunks:
                    yield step
        finally:
            self._permits += 1

    async def _chunks(self, request: Request, valid: ValidRequest) -> AsyncGenerator[Step]:
        whole: GeneratedText | None = None
        total, chunk = 0, valid
        while True:
            async with aclosing(self._results(chunk)) as results:
                async for step in results:
                    total += 1
                    if step.end is None:
                        yield step
            end = step.end
            if end is None:
                return
            text = end.text
            if whole is not None:
                end = replace(whole, text=whole.text + text, finish_reason=end.finish_reason)
                end.generated_tokens = total
            whole = end
            if end.finish_reason == "length" and total < valid.total_new_tokens:
                request = replace(request, inputs=request.inputs + text)
                try:
                    chunk = self._validation.validate(request)
                except ValidationError:
                    yield step._replace(end=whole)
                    return
                yield step._replace(end=None)
                continue
            yield step._replace(end=whole)
            return

    async def _results(self, valid: ValidRequest) -> AsyncGenerator[Step]:
        entry = self._backend.schedule(valid)
        try:
            while True:
                result = await entry.results.get()
                if isinstance(result, InferError):
                    raise result
                yield result
                if result.end:
                    return
        finally:
            entry.closed.set()

    async def generate(self, request: Request) -> Generation:
        """Run one generation to its end."""
        generation: Generation | None = None
        async with aclosing(self.stream(request)) as stream:
            async for result in stream:
                if isinstance(result, ValidRequest):
                    generation = Generation(result.input_tokens)
                    continue
                assert generation is not None
                generation.tokens.append(result.token)
                generation.end = result.end
        if generation is None or generation.end is None:
            raise IncompleteGeneration
        return generation
