"""The routes in OpenAI's JSON, as TGI has them: with its own reasons, empty ids and late errors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, fields
from typing import Any

from aiohttp import web

from .errors import InferError, NotImitated
from .generate import STATUS_ERRORS, Generate, early_fault
from .infer import Generation
from .model import Step
from .schema import Parameters, Rejection, Request, object_of, parameters_of
from .sse import HEADERS, EventStream, dumps

_TEMPLATES = ("gpt2", "phi-2")  # models without one
_NO_TEMPLATE = "Template error: template not found"
_COMMON = ("max_tokens", "temperature", "top_p", "seed", "stop", "frequency_penalty")
_REASONS = {"eos_token": "stop"}


class BadCompletion(InferError):
    """A refusal of these routes alone."""

    status = 422

    def __init__(self, message: str, error_type: str) -> None:
        super().__init__(message)
        self.error_type = error_type


@dataclass(frozen=True)
class OpenAi:
    """The handlers. `info` is the body of `/info`."""

    generation: Generate
    info: dict[str, Any]

    async def models(self, _request: web.Request) -> web.StreamResponse:
        """Answer `GET /v1/models`."""
        name = self.info["model_id"]
        model = {"id": name, "object": "model", "created": 0, "owned_by": name}
        return _json({"object": "list", "data": [model]})

    async def completions(self, request: web.Request, body: bytes) -> web.StreamResponse:
        """Answer `POST /v1/completions`. Fields that it does not have are dropped."""
        asked = object_of(body, request.headers.get("content-type", ""))
        prompts = _prompts(asked, body)
        stream = _bool(asked, "stream", body)
        parameters = _parameters(asked, body, repetition_penalty=asked.get("repetition_penalty"))
        if asked.get("suffix") is not None:
            message = "Suffix is not supported and can be achieved by preprocessing the prompt."
            raise BadCompletion(message, "suffix not supported")
        most = self.info["max_client_batch_size"]
        if len(prompts) > most:
            message = f"Number of prompts exceeds the maximum allowed batch size of {most}"
            raise BadCompletion(message, "batch size exceeded")
        requests = [Request(prompt, parameters) for prompt in prompts]
        if stream:
            events = self._completion_events(requests)
            return await self._stream(request, requests[0], events)
        _obey(requests[0])
        made = await asyncio.gather(*(self.generation.infer.generate(each) for each in requests))
        choices = [
            _choice(index, each.text.text, _reason(each.text.finish_reason))
            for index, each in enumerate(made)
        ]
        usage = _usage(sum(each.input_tokens for each in made), sum(_count(each) for each in made))
        return _json(self._head("text_completion") | {"choices": choices, "usage": usage})

    async def _completion_events(self, requests: list[Request]) -> AsyncGenerator[object]:
        queue: asyncio.Queue[object] = asyncio.Queue()

        async def run(index: int, asked: Request) -> None:
            length = 0
            try:
                _obey(asked)
                async with aclosing(self.generation.infer.stream(asked)) as results:
                    async for result in results:
                        if isinstance(result, Step):
                            queue.put_nowait(self._completion_event(index, result, length))
                        else:
                            length = result.input_tokens
            except InferError as error:
                queue.put_nowait(_error(error))
            finally:
                queue.put_nowait(None)

        tasks = [asyncio.create_task(run(*each)) for each in enumerate(requests)]
        try:
            left = len(tasks)
            while left:
                event = await queue.get()
                left -= event is None
                if event is not None:
                    yield event
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _completion_event(self, index: int, step: Step, length: int) -> object:
        reason = step.end.finish_reason if step.end else ""
        choice = _choice(index, step.token.text, reason)
        event = self._head("text_completion") | {"choices": [choice]}
        if step.end:
            event["usage"] = _usage(length, step.end.generated_tokens)
        return event

    async def chat(self, request: web.Request, body: bytes) -> web.StreamResponse:
        """Answer `POST /v1/chat/completions`."""
        asked = object_of(body, request.headers.get("content-type", ""))
        if "max_completion_tokens" in asked:
            if "max_tokens" in asked:
                raise _mismatch("duplicate field `max_tokens`", body)
            asked["max_tokens"] = asked.pop("max_completion_tokens")
        for name in ("messages",):
            if not isinstance(asked.get(name), list):
                raise _mismatch(f"missing field `{name}`", body)
        if not isinstance(asked.get("logit_bias", []), list):
            raise _mismatch("logit_bias: invalid type: map, expected a sequence", body)
        penalty = asked.get("presence_penalty")
        parameters = _parameters(
            asked,
            body,
            repetition_penalty=None if penalty is None else penalty + 2.0,
            top_n_tokens=asked.get("top_logprobs"),
            grammar=asked.get("response_format"),
        )
        if asked.get("tools"):
            raise NotImitated("tools")
        prompt = self._templated(asked["messages"], body)
        given = asked.get("model")
        model = self.info["model_id"] if given in (None, "tgi") else given
        one = Request(prompt, parameters)
        if _bool(asked, "stream", body):
            options = asked.get("stream_options", {})
            if not isinstance(options, dict):
                raise _mismatch("stream_options: invalid type: null, expected struct", body)
            events = self._chat_events(one, model, bool(options.get("include_usage")))
            return await self._stream(request, one, events)
        _obey(one)
        made = await self.generation.infer.generate(one)
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": made.text.text},
            "logprobs": None,
            "finish_reason": _reason(made.text.finish_reason),
        }
        usage = _usage(made.input_tokens, _count(made))
        return _json(self._head("chat.completion", model) | {"choices": [choice], "usage": usage})

    def _templated(self, messages: list[Any], body: bytes) -> str:
        if any(name in self.info["model_id"] for name in _TEMPLATES):
            raise BadCompletion(_NO_TEMPLATE, "template_error")
        for message in messages:
            if not isinstance(message, dict) or "role" not in message:
                raise _mismatch("messages[0]: missing field `role`", body)
        turns = [f"<|{message['role']}|>{message.get('content', '')}" for message in messages]
        return "".join([*turns, "<|assistant|>"])

    async def _chat_events(
        self, asked: Request, model: str, counts: bool
    ) -> AsyncGenerator[object]:
        length = 0
        try:
            _obey(asked)
            async with aclosing(self.generation.infer.stream(asked)) as results:
                async for result in results:
                    if not isinstance(result, Step):
                        length = result.input_tokens
                        continue
                    yield self._chat_event(result, model)
                    if result.end and counts:
                        usage = _usage(length, result.end.generated_tokens)
                        head = self._head("chat.completion.chunk", model)
                        yield head | {"choices": [], "usage": usage}
        except InferError as error:
            yield _error(error)

    def _chat_event(self, step: Step, model: str) -> object:
        text = "" if step.token.special else step.token.text
        choice = {
            "index": 0,
            "delta": {"role": "assistant", "content": text},
            "logprobs": None,
            "finish_reason": _reason(step.end.finish_reason) if step.end else None,
        }
        return self._head("chat.completion.chunk", model) | {"choices": [choice], "usage": None}

    async def _stream(
        self, request: web.Request, asked: Request, events: AsyncGenerator[object]
    ) -> web.StreamResponse:
        fault = early_fault(asked)
        response = web.StreamResponse(headers=HEADERS)
        await response.prepare(request)
        async with aclosing(events):
            stream = EventStream(response, self.generation.behaviour, fault)
            await stream.send(events)
        if fault is None or fault.name not in ("cut_after", "garbage"):
            await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    def _head(self, kind: str, model: str | None = None) -> dict[str, Any]:
        return {
            "object": kind,
            "id": "",
            "created": int(time.time()),
            "model": model or self.info["model_id"],
            "system_fingerprint": f"{self.info['version']}-{self.info['docker_label']}",
        }


def _obey(asked: Request) -> None:
    """Raise the error that the prompt orders."""
    fault = early_fault(asked)
    if fault and fault.name == "status":
        raise STATUS_ERRORS[int(fault.value)]


def _parameters(asked: dict[str, Any], body: bytes, **more: Any) -> Parameters:
    given = {name: asked[name] for name in _COMMON if asked.get(name) is not None} | {
        name: value for name, value in more.items() if value is not None
    }
    if "max_tokens" in given:
        given["max_new_tokens"] = given.pop("max_tokens")
    greedy = given.get("temperature") == 0
    if greedy:
        del given["temperature"]
    known = {field.name for field in fields(Parameters)}
    assert given.keys() <= known
    return parameters_of(given | {"do_sample": not greedy, "details": True}, _end(body))


def _prompts(asked: dict[str, Any], body: bytes) -> list[str]:
    prompt = asked.get("prompt")
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, list) or not all(isinstance(each, str) for each in prompts):
        raise _mismatch(
            "prompt: data did not match any variant of untagged enum PromptDeserializer", body
        )
    if not prompts:
        raise _mismatch(
            "prompt: Empty array detected. Do not use an empty array for the prompt.", body
        )
    return prompts


def _bool(asked: dict[str, Any], name: str, body: bytes) -> bool:
    value = asked.get(name, False)
    if not isinstance(value, bool):
        raise _mismatch(f"{name}: invalid type, expected a boolean", body)
    return value


def _end(body: bytes) -> str:
    return f" at line 1 column {len(body)}"


def _mismatch(message: str, body: bytes) -> Rejection:
    shape = "Failed to deserialize the JSON body into the target type: "
    return Rejection(422, f"{shape}{message}{_end(body)}")


def _choice(index: int, text: str, reason: str) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": reason}


def _reason(reason: str) -> str:
    return _REASONS.get(reason, reason)


def _usage(prompt: int, completion: int) -> dict[str, int]:
    total = prompt + completion
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}


def _count(made: Generation) -> int:
    return made.text.generated_tokens


def _error(error: InferError) -> object:
    """Make the event of an error, whose status is always the same."""
    return {"error": {"message": str(error), "http_status_code": 422}}


def _json(value: object) -> web.Response:
    return web.Response(body=dumps(value).encode(), headers={"content-type": "application/json"})
