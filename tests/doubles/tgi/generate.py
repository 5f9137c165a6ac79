"""One generation over HTTP: answered whole, or as a stream of events."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from .errors import (
    GenerationError,
    IncompleteGeneration,
    IncompleteGenerationStream,
    InferError,
    Overloaded,
    ValidationError,
)
from .faults import Behaviour, Fault, directives
from .infer import Generation, Infer
from .log import INFER, SERVER, Log
from .metrics import Metrics
from .model import Step
from .schema import Rejection, Request
from .sse import HEADERS, EventStream, Hangup, dumps
from .validation import ValidRequest

_STATUS_ERRORS: dict[int, InferError] = {
    error.status: error
    for error in (
        ValidationError("asked for by the prompt"),
        GenerationError("asked for by the prompt"),
        Overloaded(),
        IncompleteGeneration(),
    )
}


@dataclass(frozen=True)
class Generate:
    """What the handlers of generations share."""

    behaviour: Behaviour
    infer: Infer
    metrics: Metrics
    log: Log
    compute_type: str

    async def whole(
        self, request: web.Request, asked: Request, *, listed: bool
    ) -> web.StreamResponse:
        """Answer `/generate`, or `/` when `listed`. Raises InferError, Rejection, Hangup."""
        start = time.monotonic()
        self.metrics.count("tgi_request_count")
        fault = _early_fault(asked)
        if fault and fault.name == "status":
            raise _STATUS_ERRORS[int(fault.value)]
        parameters, others = asked.parameters, None
        if (parameters.best_of or 0) > 1:
            best, others = await self.infer.best_of(asked, parameters.best_of or 0)
        else:
            best = await self.infer.generate(asked)
        prompt = asked.inputs if parameters.return_full_text else ""
        answer: dict[str, Any] = {"generated_text": prompt + best.text.text}
        if parameters.details or parameters.decoder_input_details:
            answer["details"] = details = best.details()
            if others is not None:
                details["best_of_sequences"] = [other.details(prompt) for other in others]
        headers = {"content-type": "application/json"} | self._timings(asked, best, start)
        self._succeed("generate", best.text.generated_tokens, time.monotonic() - start)
        body = dumps([answer] if listed else answer).encode()
        if fault:
            return await _broken(request, body, headers, fault)
        return web.Response(body=body, headers=headers)

    def _timings(self, asked: Request, best: Generation, start: float) -> dict[str, str]:
        now = time.monotonic()
        inference = now - best.queued
        tokens = best.text.generated_tokens
        milliseconds = {
            "x-total-time": now - start,
            "x-validation-time": best.queued - start,
            "x-queue-time": 0.0,
            "x-inference-time": inference,
            "x-time-per-token": inference / tokens,
        }
        return {
            "x-compute-type": self.compute_type,
            "x-compute-time": str(now - start),
            "x-compute-characters": str(len(asked.inputs)),
            **{name: str(int(value * 1000)) for name, value in milliseconds.items()},
            "x-prompt-tokens": str(best.input_tokens),
            "x-generated-tokens": str(tokens),
        }

    def _succeed(self, span: str, tokens: int, seconds: float) -> None:
        self.metrics.count("tgi_request_success")
        self.metrics.record("tgi_request_duration", seconds)
        self.metrics.record("tgi_request_generated_tokens", tokens)
        self.log.router(SERVER, 432, "Success", span=span)

    def log_error(self, error: InferError) -> None:
        self.log.router(INFER, 115, str(error), level="ERROR", span="generate")

    async def stream(self, request: web.Request, asked: Request) -> web.StreamResponse:
        """Answer with events: once the request could be read, every failure is an event too."""
        self.metrics.count("tgi_request_count")
        fault = _early_fault(asked)
        headers = HEADERS | {
            "x-compute-type": self.compute_type,
            "x-compute-characters": str(len(asked.inputs)),
            "x-accel-buffering": "no",
        }
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        async with aclosing(self._events(asked, fault)) as events:
            await EventStream(response, self.behaviour, fault).send(events)
        await response.write_eof()
        return response

    async def _events(self, asked: Request, fault: Fault | None) -> AsyncGenerator[object]:
        """The events of a stream. An error is the last of them, but for two that come in pairs."""
        refusal = _stream_refusal(asked)
        if refusal:
            self.metrics.failure("validation")
            self.metrics.failure("incomplete")
            for error in (refusal, IncompleteGenerationStream()):
                self.log_error(error)
                yield error.body
            return
        try:
            if fault and fault.name == "status":
                raise _STATUS_ERRORS[int(fault.value)]
            async with aclosing(self._tokens(asked)) as tokens:
                async for event in tokens:
                    yield event
        except InferError as error:
            self.log_error(error)
            yield error.body

    async def _tokens(self, asked: Request) -> AsyncGenerator[object]:
        start, index, length = time.monotonic(), 0, 0
        prompt = asked.inputs if asked.parameters.return_full_text else ""
        async with aclosing(self.infer.stream(asked)) as results:
            async for result in results:
                if isinstance(result, ValidRequest):
                    length = result.input_tokens
                    continue
                index += 1
                yield _event(result, index, prompt, length if asked.parameters.details else None)
                if result.end:
                    seconds = time.monotonic() - start
                    self._succeed("generate_stream", result.end.generated_tokens, seconds)


def _event(step: Step, index: int, prompt: str, details_length: int | None) -> dict[str, object]:
    event: dict[str, object] = {"index": index, "token": step.token._asdict()}
    if step.top_tokens:
        event["top_tokens"] = [token._asdict() for token in step.top_tokens]
    end = step.end
    event["generated_text"] = prompt + end.text if end else None
    event["details"] = None
    if end and details_length is not None:
        event["details"] = {
            "finish_reason": end.finish_reason,
            "generated_tokens": end.generated_tokens,
            "seed": end.seed,
            "input_length": details_length,
        }
    return event


def _stream_refusal(asked: Request) -> InferError | None:
    if asked.parameters.best_of not in (None, 1):
        return ValidationError("`best_of` != 1 is not supported when streaming tokens")
    if asked.parameters.decoder_input_details:
        return ValidationError(
            "`decoder_input_details` == true is not supported when streaming tokens"
        )
    return None


def _early_fault(asked: Request) -> Fault | None:
    """The fault that the prompt asks for; those that replace the whole answer happen here."""
    fault = directives(asked.inputs).fault
    if fault and fault.name == "no_answer":
        raise Hangup
    if fault and fault.name == "plain":
        raise Rejection(502, "Bad Gateway")
    if fault and fault.name == "status" and int(fault.value) not in _STATUS_ERRORS:
        raise Rejection(int(fault.value), "asked for by the prompt")
    return fault


async def _broken(
    request: web.Request, body: bytes, headers: dict[str, str], fault: Fault
) -> web.StreamResponse:
    """A whole answer, spoilt in transit where the fault is one of transit."""
    if fault.name == "garbage":
        return web.Response(body=b"{not json", headers=headers)
    if fault.name not in ("half_event", "cut_after"):
        return web.Response(body=body, headers=headers)
    response = web.StreamResponse(headers=headers | {"content-length": str(len(body))})
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    raise Hangup
