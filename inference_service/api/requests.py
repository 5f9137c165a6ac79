"""From the messages of the proto to checked objects of the service."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from inference_service.api.callers import NO_PROXIES, caller
from inference_service.api.methods import Context
from inference_service.catalog import ModelSpec
from inference_service.engines.base import Prompt
from inference_service.errors import InvalidParameter
from inference_service.runtimes.logs import KEPT_LINES
from inference_service.serving.entry import Entry
from inference_service.serving.generation import Order
from inference_service.v1 import model_service_pb2 as pb
from rest_bridge.proxies import Proxies

# llama.cpp repeats the sequences in its last event, and each token is searched for them.
_LONGEST_STOP = 1000

# The rule of each field, in code (given the model's context length) and in words.
_RULES: dict[str, tuple[Callable[[Any, int], bool], str]] = {
    "prompt": (lambda text, _: bool(text), "must not be empty"),
    "max_new_tokens": (
        lambda count, context: 1 <= count <= context,
        "must be from 1 to {context}, the context length of {model}",
    ),
    "temperature": (lambda value, _: 0 <= value <= 2, "must be from 0.0 to 2.0"),
    "top_p": (lambda value, _: 0 < value <= 1, "must be above 0.0 and at most 1.0"),
    "top_k": (
        lambda value, _: 1 <= value <= 1000,
        "must be from 1 to 1000; leave it out for no limit",
    ),
    "repetition_penalty": (lambda value, _: 0 < value <= 2, "must be above 0.0 and at most 2.0"),
    "seed": (lambda value, _: value >= 0, "must be from 0 to 2147483647"),
    "stop": (
        lambda stop, _: len(stop) <= 4 and all(0 < len(each) <= _LONGEST_STOP for each in stop),
        f"must have at most 4 sequences, each of 1 to {_LONGEST_STOP} characters",
    ),
}
_OPTIONAL = [name for name in _RULES if name not in ("prompt", "stop")]

# Engines count with single precision. A number that this cannot tell from a bound means the bound:
# llama.cpp would divide by it, and TGI would take it for the bound and refuse it.
_NEAR = 2.0**-23
# For a bound that is not allowed itself there is the number next to it.
_BOUNDS = {
    "temperature": {0.0: 0.0, 2.0: 2.0},
    "top_p": {0.0: _NEAR, 1.0: 1.0},
    "repetition_penalty": {0.0: _NEAR, 2.0: 2.0},
}

_LONGEST_DRAIN = 3600.0

Given = pb.GenerateRequest | pb.GenerateStreamRequest


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of requests, in seconds, and the proxies that may name callers.

    `generation` is that of a whole text, or of the silence between two chunks of a stream;
    `idle_timeout` the longest that a request may ask for; `answer` the longest silence of an answer
    that is forwarded.
    """

    generation: float
    idle_timeout: float
    answer: float
    proxies: Proxies = NO_PROXIES


def order(request: Given, context: Context, entry: Entry, limits: Limits) -> Order:
    """Return the checked request, with the caller and the deadline of the call.

    Raises InvalidParameter with every mistake.
    """
    if not entry.generates:
        others = ", ".join(entry.engine.paths(entry.spec))
        mistake = f"names {entry.spec.id}, which makes no text: it answers at {others}"
        raise InvalidParameter({"model_id": mistake}, entry.spec.id)
    wrong = _mistakes(request, entry.spec)
    idle_timeout, mistake = _seconds(request, "idle_timeout", limits.idle_timeout)
    if mistake:
        wrong["idle_timeout"] = mistake
    if wrong:
        raise InvalidParameter(wrong, entry.spec.id)
    return Order(
        _prompt(request),
        limits.generation,
        idle_timeout,
        caller(context, limits.proxies),
        deadline(context),
        resumes=isinstance(request, pb.GenerateStreamRequest) and request.resume,
    )


def _prompt(request: Given) -> Prompt:
    """Return a request without mistakes, with defaults."""
    given = _values(request)
    return Prompt(given.pop("prompt"), **given)


def _mistakes(request: Given, spec: ModelSpec) -> dict[str, str]:
    """Return what is wrong with a request, by field."""
    given, context = _values(request), spec.context_length
    return {
        field: rule.format(context=context, model=spec.id) + _shown(request, field)
        for field, (fits, rule) in _RULES.items()
        if field in given and not fits(given[field], context)
    }


def _values(request: Given) -> dict[str, Any]:
    """Return what a request gives, by field."""
    # One more than allowed is enough to refuse: a request has room for two million.
    given: dict[str, Any] = {"prompt": request.prompt, "stop": tuple(request.stop[:5])}
    for field in _OPTIONAL:
        if request.HasField(field):  # type: ignore[arg-type]
            given[field] = _to_bound(field, getattr(request, field))
    return given


def _to_bound(field: str, value: float) -> float:
    """Return the bound that a number means, or the number itself."""
    for bound, meant in _BOUNDS.get(field, {}).items():
        if abs(value - bound) < _NEAR and (value > 0 or meant == bound):
            return meant
    return value


def _shown(request: Given, field: str) -> str:
    return "" if field in ("prompt", "stop") else f", not {getattr(request, field)}"


def deadline(context: Context) -> float:
    """Return the moment at which the caller gives up, on the clock of the loop."""
    left = context.time_remaining()
    return math.inf if left is None else asyncio.get_running_loop().time() + left


def full_text(request: pb.GenerateRequest) -> bool:
    """Return whether the answer begins with the prompt."""
    return request.return_full_text if request.HasField("return_full_text") else True


def drain(request: pb.StopModelRequest) -> float | None:
    """Return the drain of a stop, in seconds; None for the setting."""
    return _checked_seconds(request, "drain_timeout", _LONGEST_DRAIN)


def idle_timeout(request: pb.ForwardRequest | pb.StartModelRequest, cap: float) -> float | None:
    """Return the idle timeout after this request, in seconds; None for the model's own."""
    return _checked_seconds(request, "idle_timeout", cap)


def tail_line_count(request: pb.StreamLogsRequest) -> int:
    """Return the number of last lines that a reader asks for."""
    count = request.tail_line_count if request.HasField("tail_line_count") else 100
    if not 0 <= count <= KEPT_LINES:
        mistake = f"must be from 0 to {KEPT_LINES}, not {count}"
        raise InvalidParameter({"tail_line_count": mistake})
    return count


def _checked_seconds(request: Any, field: str, most: float) -> float | None:
    seconds, mistake = _seconds(request, field, most)
    if mistake:
        raise InvalidParameter({field: mistake})
    return seconds


def _seconds(request: Any, field: str, most: float) -> tuple[float | None, str]:
    """Return the seconds of a Duration, None where it is not set, and what is wrong with it."""
    if not request.HasField(field):
        return None, ""
    given = getattr(request, field)
    if abs(given.nanos) >= 10**9 or given.seconds * given.nanos < 0:
        parts = f"not {given.seconds} s and {given.nanos} ns"
        return None, f"must have seconds and nanos of one sign, and nanos below 10**9, {parts}"
    seconds = given.seconds + given.nanos / 1e9
    if not 0 <= seconds <= most:
        return None, f"must be from 0 to {most:g} s, not {seconds:g} s"
    return seconds, ""
