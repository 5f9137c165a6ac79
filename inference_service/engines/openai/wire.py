"""The JSON of `/v1/completions`, as servers really send it.

Beside OpenAI's own fields, `stop_reason` and `stream_options.continuous_usage_stats` are vLLM's,
`matched_stop` is SGLang's, and `timings` is llama.cpp's. docs/engines.md has what was seen.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from inference_service.catalog import ModelSpec
from inference_service.engines import sse
from inference_service.engines.base import Chunk, Finish, FinishReason, NoRoom, Prompt
from inference_service.engines.openai.section import OpenaiNeeds
from inference_service.engines.stops import StopFilter
from inference_service.errors import (
    EngineFailed,
    EngineLost,
    EngineOverloaded,
    InvalidParameter,
    InvalidRequest,
    PromptTooLong,
)

_REASONS = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}
_DONE = b"[DONE]"

# Sentences about the length of a prompt: OpenAI, vLLM, SGLang and llama.cpp.
_CONTEXT = re.compile(r"context (?:length|size|window)|context_length|exceed_context", re.I)
# vLLM 0.32 lowers the limit of a request to what the context has left, and then refuses 0.
_NOTHING_LEFT = re.compile(r"max_tokens must be at least 1, got (?:0|-\d+)")
_LENGTH = re.compile(r"context length (?:is|of) (?:only )?(\d{1,9})\b")
_PROMPT = re.compile(
    r"\b(\d{1,9})(?: tokens)? (?:in (?:your prompt|the (?:messages|prompt|input))"
    r"|from the input|(?:prompt|input) tokens)"
)


class _Choice(msgspec.Struct):
    index: int = 0
    text: str | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    matched_stop: str | int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Timings(msgspec.Struct):
    cache_n: int = 0
    prompt_n: int = 0
    predicted_n: int = 0


class _Model(msgspec.Struct):
    id: str
    aliases: list[str] = []  # of llama.cpp


class _Models(msgspec.Struct):
    data: list[_Model]


class _Event(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    timings: _Timings | None = None
    error: Any = None
    object: str | None = None
    message: Any = None


_NO_CHOICE = _Choice()

_decoder = msgspec.json.Decoder(_Event)
_models_decoder = msgspec.json.Decoder(_Models)


def refuse_what_it_cannot(spec: ModelSpec, needs: OpenaiNeeds, prompt: Prompt) -> None:
    """Raise InvalidParameter for an option that the engine does not have."""
    wanted = {
        "top_p": prompt.top_p < 1,
        "top_k": prompt.top_k > 0,
        "repetition_penalty": prompt.repetition_penalty != 1,
        "seed": prompt.seed is not None,
    }
    advice = {"top_p": "send 1.0"}
    mistakes = {
        name: f"is no option of the engine of {spec.id}; {advice.get(name, 'leave it out')}"
        for name, is_on in wanted.items()
        if is_on and name not in needs.names
    }
    if mistakes:
        raise InvalidParameter(mistakes, spec.id)


def request(needs: OpenaiNeeds, model: str, prompt: Prompt, limit: int) -> dict[str, Any]:
    """Make the body of a request for at most `limit` tokens.

    Samplers that are off are sent as such, because a server may have other defaults of its own.
    """
    values: dict[str, Any] = {
        "max_new_tokens": limit,
        "temperature": prompt.temperature,
        "top_p": prompt.top_p,
        "top_k": prompt.top_k or -1,  # SGLang refuses 0, and nobody -1
        "repetition_penalty": prompt.repetition_penalty,
    }
    if prompt.seed is not None:
        values["seed"] = prompt.seed
    if prompt.stop:  # transformers fails on an empty list
        values["stop"] = list(prompt.stop)
    body = {"model": model, "prompt": prompt.text, "stream": True}
    body |= {"stream_options": {"include_usage": True}}
    body |= {own: values[name] for name, own in needs.names.items() if name in values}
    return body | needs.body


class Text:
    """The text of one answer and its counts, as its events come.

    Chunks have token counts where the server sends them along. With `server_stops` the server was
    given the stop sequences too, and ends by itself where it finds one.
    """

    def __init__(self, spec: ModelSpec, prompt: Prompt, *, server_stops: bool) -> None:
        self._spec = spec
        self._server_stops = server_stops
        self._stops = StopFilter(prompt.stop)
        self._unsent = ""
        self._prompt_tokens = 0
        self._tokens = 0  # that the server has reported
        self._sent_tokens = 0
        self._sent = False
        self._counted = False  # before the end
        self._reason: FinishReason | None = None
        self._done = False

    def feed(self, lines: bytes) -> None:
        """Read the events that have come together, one a line."""
        if _DONE in lines:
            lines, self._done = _before_done(lines)
        try:
            events = _decoder.decode_lines(lines)
        except sse.UNREADABLE as error:
            last = lines.rstrip().rpartition(b"\n")[2].decode(errors="replace")[:200]
            raise EngineFailed(f"sent an event that is not its own ({error}): {last}") from None
        for event in events:
            if self._complete:
                return
            self._read(event)

    @property
    def ended(self) -> bool:
        """True where nothing can follow that matters."""
        return self._done or self._complete

    def chunk(self) -> Chunk | None:
        """Return the text that has come since the last chunk, if any."""
        if not self._unsent:
            return None
        chunk = Chunk(self._unsent, self._fresh_tokens())
        self._unsent, self._sent = "", True
        return chunk

    def last(self) -> Chunk:
        """Return the last chunk, at the end of the answer."""
        if self._reason is None:
            if not self._done:
                raise EngineLost("ended its answer before the text was finished")
            raise EngineFailed("ended the text without a `finish_reason`")
        finish = Finish(self._reason, self._prompt_tokens, self._tokens)
        return Chunk(self._unsent + self._stops.rest(), self._fresh_tokens(), finish)

    @property
    def _complete(self) -> bool:
        """True at the end of the text, with its counts unless none can come."""
        counted = self._tokens > 0 or (self._stops.hit and not self._server_stops)
        return self._reason is not None and counted

    def _fresh_tokens(self) -> int:
        fresh = self._tokens - self._sent_tokens if self._counted or not self._sent else 0
        self._sent_tokens = self._tokens
        return fresh

    def _read(self, event: _Event) -> None:
        if event.error is not None or event.object == "error":
            raise _failure(self._spec, *explained(event.error or event.message))
        choice = next((each for each in event.choices or () if each.index == 0), _NO_CHOICE)
        self._count(event, at_end=choice.finish_reason is not None or choice is _NO_CHOICE)
        if self._reason is not None:  # what follows is the usage
            self._done = self._done or bool(choice.text)
            return
        if choice.text:
            self._unsent += self._stops.feed(choice.text)
        if self._stops.hit:
            self._reason = FinishReason.STOP_SEQUENCE
        elif choice.finish_reason:  # some servers send an empty one before the end
            self._reason = _reason(choice)

    def _count(self, event: _Event, *, at_end: bool) -> None:
        """Note the counts of an event, which are those of the text so far."""
        prompt_tokens, tokens = None, None
        if (usage := event.usage) is not None:
            prompt_tokens, tokens = usage.prompt_tokens, usage.completion_tokens
        elif (timings := event.timings) is not None:
            prompt_tokens, tokens = timings.cache_n + timings.prompt_n, timings.predicted_n
        self._prompt_tokens = prompt_tokens or self._prompt_tokens
        if tokens:
            self._tokens = tokens
            self._counted = self._counted or not at_end


def model_names(body: bytes) -> list[str] | None:
    """Return the names in an answer of `/v1/models`, or None where it is something else."""
    try:
        models = _models_decoder.decode(body).data
    except sse.UNREADABLE:
        return None
    return [*dict.fromkeys(name for model in models for name in (model.id, *model.aliases))]


def refused(spec: ModelSpec, refusal: sse.Refusal) -> Exception:
    """Return the error that a refusal stands for, which can be a NoRoom."""
    if refusal.status == 200:
        return EngineFailed(f"answered with no stream of events: {refusal.text}")
    try:
        body = msgspec.json.decode(refusal.body)
    except sse.UNREADABLE:
        body = None
    message, kind, _ = explained(body)
    return _failure(spec, message or refusal.text, kind, refusal.status)


def _before_done(lines: bytes) -> tuple[bytes, bool]:
    """Return the events before the line `[DONE]`, and whether there is one."""
    events = lines.split(b"\n")
    for number, event in enumerate(events):
        if event.strip() == _DONE:
            return b"\n".join(events[:number]), True
    return lines, False


def _reason(choice: _Choice) -> FinishReason:
    if choice.finish_reason == "abort":
        raise EngineLost("broke the text off")
    reason = _REASONS.get(choice.finish_reason or "")
    if reason is None:
        raise EngineFailed(f"ended the text for a reason of its own: {choice.finish_reason}")
    by_sequence = isinstance(choice.stop_reason, str) or isinstance(choice.matched_stop, str)
    if reason is FinishReason.STOP and by_sequence:
        return FinishReason.STOP_SEQUENCE
    return reason


def explained(error: Any, depth: int = 5) -> tuple[str, str, int]:
    """Return the message, the kind and the status of an error in any of the usual shapes.

    These are `{"error": {"message", "type", "code"}}`, the same without `error`, `{"error": TEXT}`,
    and FastAPI's `{"detail": TEXT or list}`. `depth` is how deep such shapes may be in each other.
    """
    if not depth:
        return _shown(error), "", 500
    match error:
        case {"error": inner} | {"detail": inner} if inner:
            return explained(inner, depth - 1)
        case {"message": message}:
            kind, code = error.get("type"), error.get("code")
            return _shown(message), f"{kind} {code}", code if isinstance(code, int) else 500
        case {"msg": message}:
            loc = error.get("loc")
            where = ".".join(map(str, loc)) if isinstance(loc, list) else loc
            return f"{where}: {message}", "", 500
        case [*inner] if inner:
            return "; ".join(explained(each, depth - 1)[0] for each in inner[:5]), "", 500
        case None:
            return "", "", 500
        case _:
            return _shown(error), "", 500


def is_too_long(message: str, kind: str) -> bool:
    """Return whether a refusal is about the length of a prompt."""
    return bool(_NOTHING_LEFT.search(message) or _CONTEXT.search(f"{message} {kind}"))


def _shown(error: Any) -> str:
    try:
        return str(error)
    except RecursionError:
        return "(deeply nested)"


def _failure(spec: ModelSpec, message: str, kind: str, status: int) -> Exception:
    match status:
        case 401 | 403:
            advice = "see `key_file` in the catalog"
            return EngineFailed(f"refuses the key of this service: {message}; {advice}")
        case 404:
            advice = "see `url` and `served_name` in the catalog"
            return EngineFailed(f"answered HTTP 404: {message}; {advice}")
        case 429 | 503:
            return EngineOverloaded(spec.id)
        case 502 | 504:  # of a proxy in front of the engine
            return EngineLost(f"answered HTTP {status}: {message}")
        case 413:
            return PromptTooLong(spec.id, spec.context_length, message)
        case 400 | 422:
            if _NOTHING_LEFT.search(message):
                detail = "it leaves no room for a token"
                return PromptTooLong(spec.id, spec.context_length, detail)
            if _CONTEXT.search(f"{message} {kind}"):
                return _no_room(spec, message)
            return InvalidRequest(f"the engine refused the request: {message}")
    return EngineFailed(f"failed: {message}")


def _no_room(spec: ModelSpec, message: str) -> Exception:
    """Return a NoRoom where the prompt alone fits, by the figures of the message."""
    length, prompt = _LENGTH.search(message), _PROMPT.search(message)
    if length and prompt and (room := int(length[1]) - int(prompt[1])) > 0:
        return NoRoom(room)
    return PromptTooLong(spec.id, spec.context_length, message)
