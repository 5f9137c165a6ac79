"""A generation over HTTP: as one answer, or as a stream of events."""

from __future__ import annotations

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
from .infer import Infer
from .log import INFER, SERVER, Log
from .model import Step
from .schema import Rejection, Request
from .sse import HEADERS, EventStream, Hangup, dumps
from .validation import ValidRequest

STATUS_ERRORS: dict[int, InferError] = {
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
    """The handlers of generations."""

    behaviour: Behaviour
    infer: Infer
    log: Log

    async def whole(self, request: web.Request, asked: Request) -> web.StreamResponse:
        """Answer `/generate`. Raises InferError, Rejection, Hangup."""
        fault = early_fault(asked)
        if fault and fault.name == "status":
            raise STATUS_ERRORS[int(fault.value)]
        generation = await self.infer.generate(asked)
        parameters = asked.parameters
        prompt = asked.inputs if parameters.return_full_text else ""
        answer: dict[str, Any] = {"generated_text": prompt + generation.text.text}
        if parameters.details or parameters.decoder_input_details:
            answer["details"] = generation.details()
        headers = {
            "content-type": "application/json",
            "x-prompt-tokens": str(generation.input_tokens),
            "x-generated-tokens": str(generation.text.generated_tokens),
        }
        self._log_success("generate")
        body = dumps(answer).encode()
        if fault:
            return await _broken(request, body, headers, fault)
        return web.Response(body=body, headers=headers)

    def _log_success(self, span: str) -> None:
        self.log.router(SERVER, 432, "Success", span=span)

    def log_error(self, error: InferError) -> None:
        """Log an error as the router does."""
        self.log.router(INFER, 115, str(error), level="ERROR", span="generate")

    async def stream(self, request: web.Request, asked: Request) -> web.StreamResponse:
        """Answer `/generate_stream`. A failure after the request was read is an event too."""
        fault = early_fault(asked)
        response = web.StreamResponse(headers=HEADERS)
        await response.prepare(request)
        async with aclosing(self._events(asked, fault)) as events:
            await EventStream(response, self.behaviour, fault).send(events)
        await response.write_eof()
        return response

    async def _events(self, asked: Request, fault: Fault | None) -> AsyncGenerator[object]:
        """Yield the events of a stream. An error is the last one; two errors come in pairs."""
        refusal = _stream_refusal(asked)
        if refusal:
            for error in (refusal, IncompleteGenerationStream()):
                self.log_error(error)
                yield error.body
            return
        try:
            if fault and fault.name == "status":
                raise STATUS_ERRORS[int(fault.value)]
            async with aclosing(self._tokens(asked)) as tokens:
                async for event in tokens:
                    yield event
        except InferError as error:
            self.log_error(error)
            yield error.body

    async def _tokens(self, asked: Request) -> AsyncGenerator[object]:
        index, length = 0, 0
        prompt = asked.inputs if asked.parameters.return_full_text else ""
        async with aclosing(self.infer.stream(asked)) as results:
            async for result in results:
                if isinstance(result, ValidRequest):
                    length = result.input_tokens
                    continue
                index += 1
                yield _event(result, index, prompt, length if asked.parameters.details else None)
                if result.end:
                    self._log_success("generate_stream")


def _event(step: Step, index: int, prompt: str, details_length: int | None) -> dict[str, object]:
    end = step.end
    event: dict[str, object] = {"index": index, "token": step.token._asdict()}
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


def early_fault(asked: Request) -> Fault | None:
    """Return the fault that the prompt orders, or raise one that replaces the whole answer."""
    fault = directives(asked.inputs).fault
    if fault and fault.name == "no_answer":
        raise Hangup
    if fault and fault.name == "plain":
        raise Rejection(502, "Bad Gateway")
    if fault and fault.name == "status" and int(fault.value) not in STATUS_ERRORS:
        raise Rejection(int(fault.value), "asked for by the prompt")
    return fault


async def _broken(
    request: web.Request, body: bytes, headers: dict[str, str], fault: Fault
) -> web.StreamResponse:
    """Answer in one piece, damaged if the fault is one of the connection."""
    if fault.name == "garbage":
        return web.Response(body=b"{not json", headers=headers)
    if fault.name not in ("half_event", "cut_after"):
        return web.Response(body=body, headers=headers)
    response = web.StreamResponse(headers=headers | {"content-length": str(len(body))})
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    raise Hangup
