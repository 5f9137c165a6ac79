"""The bounds of all parameters, in the order in which the router tests them."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from typing import Any

from .errors import NotImitated, ValidationError
from .schema import Grammar, Parameters, Request
from .settings import Settings
from .tokenizer import prompt_ids

CHUNK_TOKENS = 1024
"""The most new tokens for which a generation is queued at once; it is queued again for more."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The effective limits of one server, as in `/info`."""

    input_tokens: int
    total_tokens: int
    bos: bool


@dataclass(frozen=True, slots=True)
class ValidRequest:
    """A request for the backend: `new_tokens` in this chunk, `total_new_tokens` in all."""

    prompt: bytes
    input_tokens: int
    new_tokens: int
    total_new_tokens: int
    sampling: bool
    seed: int
    stop: tuple[str, ...]


class Validation:
    """The tests that turn a Request into a ValidRequest."""

    def __init__(self, settings: Settings, limits: Limits) -> None:
        self._settings = settings
        self._limits = limits

    def _test_best_of(self, best_of: int) -> None:
        if self._settings.max_best_of == 1:
            raise ValidationError("`best_of` != 1 is not allowed for this endpoint")
        if best_of > self._settings.max_best_of:
            most = self._settings.max_best_of
            raise ValidationError(f"`best_of` must be > 0 and <= {most}. Given: {best_of}")

    def validate(self, request: Request) -> ValidRequest:
        """Test the parameters and count the prompt's tokens. Raises an InferError."""
        asked = request.parameters
        best_of, top_n_tokens = asked.best_of or 0, asked.top_n_tokens or 0
        many = best_of > 1
        if many:
            self._test_best_of(best_of)
        if many and not _wants_sampling(asked):
            raise ValidationError("you must use sampling when `best_of` is > 1")
        _test_numbers(asked)
        most = self._settings.max_stop_sequences
        if len(asked.stop) > most:
            raise ValidationError(
                f"`stop` supports up to {most} stop sequences. Given: {len(asked.stop)}"
            )
        if many and asked.seed is not None:
            raise ValidationError("`seed` must not be set when `best_of` > 1")
        self._test_top_n(top_n_tokens)
        if not request.inputs:
            raise ValidationError("`inputs` cannot be empty")
        self._test_truncate(asked.truncate)
        valid = self._measure(request)
        if asked.grammar is not None:
            self._test_grammar(asked.grammar)
        if many or top_n_tokens:
            raise NotImitated("`best_of` > 1" if many else "`top_n_tokens`")
        return valid

    def _test_top_n(self, count: int) -> None:
        most = self._settings.max_top_n_tokens
        if count > most:
            raise ValidationError(f"`top_n_tokens` must be >= 0 and <= {most}. Given: {count}")

    def _test_truncate(self, truncate: int | None) -> None:
        most = self._limits.input_tokens
        if truncate is not None and not 0 < truncate <= most:
            raise ValidationError(
                f"`truncate` must be strictly positive and less than {most}. Given: {truncate}"
            )

    def _test_grammar(self, grammar: Grammar) -> None:
        if self._settings.disable_grammar_support:
            raise ValidationError("grammar is not supported")
        if grammar.type == "regex":
            return
        schema: Any = grammar.value
        if isinstance(schema, str):
            try:
                schema = json.loads(schema)
            except ValueError as error:
                raise ValidationError(f"grammar is not valid: {error}") from None
        elif not isinstance(schema, dict):
            raise ValidationError("grammar is not supported")
        if not isinstance(schema, dict) or "properties" not in schema:
            raise ValidationError("grammar is not valid: Grammar must have a 'properties' field")

    def _measure(self, request: Request) -> ValidRequest:
        asked, limits = request.parameters, self._limits
        pieces = prompt_ids(request.inputs, limits.bos)
        if asked.truncate is not None:
            pieces = pieces[-asked.truncate :]
        length = len(pieces)
        wanted = asked.max_new_tokens
        if wanted is None:
            wanted = max(limits.total_tokens - length, 0)
        chunk = min(wanted, CHUNK_TOKENS)
        if length + chunk > limits.total_tokens:
            raise ValidationError(
                f"`inputs` tokens + `max_new_tokens` must be <= {limits.total_tokens}. "
                f"Given: {length} `inputs` tokens and {chunk} `max_new_tokens`"
            )
        if length > limits.input_tokens:
            raise ValidationError(
                f"`inputs` must have less than {limits.input_tokens} tokens. Given: {length}"
            )
        return ValidRequest(
            prompt=b"".join(piece.data for piece in pieces),
            input_tokens=length,
            new_tokens=chunk,
            total_new_tokens=wanted,
            sampling=_samples(asked),
            seed=secrets.randbits(64) if asked.seed is None else asked.seed,
            stop=asked.stop,
        )


def _wants_sampling(asked: Parameters) -> bool:
    """Return whether the router takes the request for a sampled one: for any of these."""
    given = (asked.temperature, asked.top_k, asked.top_p, asked.typical_p)
    return asked.do_sample or any(value is not None for value in given)


def _samples(asked: Parameters) -> bool:
    """Return whether the shard samples: with a temperature of exactly 1 alone it is greedy."""
    given = (asked.top_k, asked.top_p, asked.typical_p)
    return (
        asked.do_sample
        or asked.temperature not in (None, 1.0)
        or any(value is not None for value in given)
    )


def _test_numbers(asked: Parameters) -> None:
    if asked.temperature is not None and asked.temperature <= 0:
        raise ValidationError("`temperature` must be strictly positive")
    if asked.repetition_penalty is not None and asked.repetition_penalty <= 0:
        raise ValidationError("`repetition_penalty` must be strictly positive")
    if not -2.0 <= (asked.frequency_penalty or 0.0) <= 2.0:
        raise ValidationError("`frequency_penalty` must be >= -2.0 and <= 2.0")
    for name in ("top_p", "typical_p"):
        value = getattr(asked, name)
        if value is not None and not 0.0 < value < 1.0:
            raise ValidationError(f"`{name}` must be > 0.0 and < 1.0")
    if asked.top_k is not None and asked.top_k <= 0:
        raise ValidationError("`top_k` must be strictly positive")
    if asked.max_new_tokens == 0:
        raise ValidationError("`max_new_tokens` must be strictly positive")
