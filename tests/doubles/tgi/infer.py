"""Requests to generations: permits, re-queueing of long outputs, and the best of several."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from .backend import Backend
from .errors import IncompleteGeneration, InferError, Overloaded, ValidationError
from .metrics import Metrics
from .model import GeneratedText, Step, Token, prefill
from .schema import Request
from .validation import Validation, ValidRequest


@dataclass
class Generation:
    """Everything of one finished generation, with the moments it was queued and started."""

    input_tokens: int
    queued: float
    prefill: list[dict[str, object]]
    tokens: list[Token] = field(default_factory=list)
    top_tokens: list[list[Token]] = field(default_factory=list)
    end: GeneratedText | None = None

    @property
    def text(self) -> GeneratedText:
        if self.end is None:
            raise IncompleteGeneration
        return self.end

    def details(self, prompt: str | None = None) -> dict[str, Any]:
        """What `details` shows; with a prompt, the form of `best_of_sequences`."""
        end = self.text
        text = {} if prompt is None else {"generated_text": prompt + end.text}
        details: dict[str, Any] = text | {
            "finish_reason": end.finish_reason,
            "generated_tokens": end.generated_tokens,
            "seed": end.seed,
            "prefill": self.prefill,
            "tokens": [token._asdict() for token in self.tokens],
        }
        if self.top_tokens:
            details["top_tokens"] = [[one._asdict() for one in top] for top in self.top_tokens]
        return details


class Infer:
    """The permits of MAX_CONCURRENT_REQUESTS and the way from a request to its steps."""

    def __init__(
        self, backend: Backend, validation: Validation, metrics: Metrics, permits: int
    ) -> None:
        self.backend = backend
        self.validation = validation
        self._metrics = metrics
        self._permits = permits

    async def stream(self, request: Request) -> AsyncGenerator[ValidRequest | Step]:
        """First the validated request, then its steps. A permit is out until this is closed.

        An output that fills its chunk and is shorter than was asked for is queued again with its
        own text behind the prompt and the same wish, so that it ends at a multiple of the chunk.
        """
        if not self._permits:
            self._metrics.failure("overloaded")
            raise Overloaded
        self._permits -= 1
        try:
            valid = self._validated(request)
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
                    chunk = self.validation.validate(request)
                except ValidationError:
                    yield step._replace(end=whole)
                    return
                yield step._replace(end=None)
                continue
            yield step._replace(end=whole)
            return

    async def _results(self, valid: ValidRequest) -> AsyncGenerator[Step]:
        entry = self.backend.schedule(valid)
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

    def _validated(self, request: Request) -> ValidRequest:
        try:
            valid = self.validation.validate(request)
        except ValidationError:
            self._metrics.failure("validation")
            raise
        self._metrics.record("tgi_request_input_length", valid.input_tokens)
        self._metrics.record("tgi_request_max_new_tokens", valid.new_tokens)
        return valid

    async def generate(self, request: Request) -> Generation:
        """Run one generation to its end."""
        generation: Generation | None = None
        async with aclosing(self.stream(request)) as stream:
            async for result in stream:
                if isinstance(result, ValidRequest):
                    now = time.monotonic()
                    generation = Generation(result.input_tokens, now, prefill(result))
                    continue
                assert generation is not None
                generation.tokens.append(result.token)
                if result.top_tokens:
                    generation.top_tokens.append(result.top_tokens)
                generation.end = result.end
        if generation is None or generation.end is None:
            self._metrics.failure("incomplete")
            raise IncompleteGeneration
        return generation

    async def best_of(self, request: Request, count: int) -> tuple[Generation, list[Generation]]:
        """Run several and put the likeliest per token first. Each takes a permit of its own."""
        self.validation.best_of(count)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self.generate(request)) for _ in range(count)]
        except ExceptionGroup as failed:  # all of the one kind; `except*` would raise a group again
            raise failed.exceptions[0] from None
        ranked = sorted((task.result() for task in tasks), key=_mean_logprob, reverse=True)
        return ranked[0], ranked[1:]


def _mean_logprob(generation: Generation) -> float:
    return sum(token.logprob for token in generation.tokens) / len(generation.tokens)
