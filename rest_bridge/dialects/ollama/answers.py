"""From answers in OpenAI's JSON to those of Ollama's."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

import msgspec

Json = dict[str, Any]

_REASONS = {"tool_calls": "stop", "stop": "stop", "length": "length"}


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct):
    function: _Function
    index: int = 0


class _Message(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    delta: _Message | None = None
    message: _Message | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


class _Vector(msgspec.Struct):
    embedding: list[float]
    index: int = 0


class _Vectors(msgspec.Struct):
    data: list[_Vector]
    usage: _Usage | None = None


_chunk = msgspec.json.Decoder(_Chunk).decode
_vectors = msgspec.json.Decoder(_Vectors).decode


class Made:
    """The answer to one chat, or to one text where it is `plain`, of a stream or as a whole."""

    def __init__(self, model: str, plain: bool) -> None:
        self._model = model
        self._plain = plain
        self._asked_at = time.monotonic_ns()
        self._began_at = self._asked_at
        self._first_at: int | None = None
        self._calls: dict[int, _Function] = {}
        self._reason = "stop"
        self._usage = _Usage()

    def begin(self) -> None:
        """Note that the engine works on the request."""
        self._began_at = time.monotonic_ns()

    def loaded(self, data: bytes) -> Json:
        """Return the answer to a request without a prompt, which only starts the model."""
        self._reason = "load"
        return self._answer("", None, done=True)

    def part(self, data: bytes) -> Json | None:
        """Return the answer to a chunk of a stream, None where it says nothing to the client.

        Raises msgspec.DecodeError, and ValueError with the error of the engine.
        """
        chunk = _chunk(data)
        if chunk.error is not None:
            raise ValueError(_sentence(chunk.error))
        message = self._noted(chunk)
        if message is None or not (message.content or message.reasoning_content):
            return None
        return self._answer(message.content or "", message.reasoning_content)

    def last(self) -> Json:
        """Return the end of a stream, which has the calls of tools."""
        return self._answer("", None, done=True)

    def whole(self, data: bytes) -> Json:
        """Return the answer to a whole answer. Raises as `part` does."""
        chunk = _chunk(data)
        if chunk.error is not None:
            raise ValueError(_sentence(chunk.error))
        message = self._noted(chunk) or _Message()
        return self._answer(message.content or "", message.reasoning_content, done=True)

    def silence(self) -> Json:
        """Return an answer without text, which shows that the rest still comes."""
        return self._answer("", None)

    def _noted(self, chunk: _Chunk) -> _Message | None:
        """Note what belongs to the end, and return the message of a chunk."""
        if chunk.usage is not None:
            self._usage = chunk.usage
        if not chunk.choices:
            return None
        if self._first_at is None:
            self._first_at = time.monotonic_ns()
        choice = chunk.choices[0]
        if choice.finish_reason:
            self._reason = _REASONS.get(choice.finish_reason, choice.finish_reason)
        message = choice.delta or choice.message or _Message(content=choice.text)
        message.reasoning_content = message.reasoning_content or message.reasoning
        for number, call in enumerate(message.tool_calls or ()):
            self._note_call(call.index if choice.delta else number, call.function)
        return message

    def _note_call(self, index: int, part: _Function) -> None:
        call = self._calls.setdefault(index, _Function("", ""))
        call.name = (call.name or "") + (part.name or "")
        call.arguments = (call.arguments or "") + (part.arguments or "")

    def _answer(self, text: str, thinking: str | None, *, done: bool = False) -> Json:
        made: Json = {"model": self._model, "created_at": now()}
        if self._plain:
            made |= {"response": text} | ({"thinking": thinking} if thinking else {})
        else:
            message: Json = {"role": "assistant", "content": text}
            message |= {"thinking": thinking} if thinking else {}
            if done and (calls := [*filter(None, map(_call, self._calls.values()))]):
                message["tool_calls"] = calls
            made["message"] = message
        return made | {"done": done} | (self._end() if done else {})

    def _end(self) -> Json:
        now = time.monotonic_ns()
        first = self._first_at or now
        return {
            "done_reason": self._reason,
            "total_duration": now - self._asked_at,
            "load_duration": self._began_at - self._asked_at,
            "prompt_eval_count": self._usage.prompt_tokens,
            "prompt_eval_duration": first - self._began_at,
            "eval_count": self._usage.completion_tokens,
            "eval_duration": now - first,
        }


def embedded(model: str, data: bytes, began: int, one: bool) -> Json:
    """Return the answer to `/api/embed`, or to `/api/embeddings`, which is `one`."""
    found = _vectors(data)
    vectors = [each.embedding for each in sorted(found.data, key=lambda each: each.index)]
    if one:
        return {"embedding": vectors[0] if vectors else []}
    count = found.usage.prompt_tokens if found.usage else 0
    times = {"total_duration": time.monotonic_ns() - began, "load_duration": 0}
    return {"model": model, "embeddings": vectors, **times, "prompt_eval_count": count}


def now() -> str:
    """Return the time as Ollama writes it."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def _call(call: _Function) -> Json | None:
    try:
        arguments = json.loads(call.arguments or "{}")
    except ValueError:  # cut by the limit of tokens, which `done_reason` says
        return None
    return {"function": {"name": call.name, "arguments": arguments}}


def _sentence(error: Any) -> str:
    message = error.get("message") if isinstance(error, dict) else None
    return message if isinstance(message, str) else json.dumps(error)
