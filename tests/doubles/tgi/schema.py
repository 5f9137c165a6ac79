"""Typed requests from bytes, with the refusals that come before any handler.

These refusals are plain text: 415 for another content type, 400 for a body that is not JSON, 422
for JSON of another shape. Unknown fields are ignored. Numbers are as wide as the router's own.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_SHAPE = "Failed to deserialize the JSON body into the target type: "
_SYNTAX = "Failed to parse the request body as JSON: "
U32, U64 = 2**32, 2**64


class Rejection(Exception):
    """An answer in plain text, from before any handler."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


@dataclass(frozen=True, slots=True)
class Grammar:
    """A constraint on the output. The double checks it, but its text does not obey it."""

    type: str
    value: Any


@dataclass(frozen=True, slots=True)
class Parameters:
    """The `parameters` of a request. An object without `do_sample` means greedy."""

    best_of: int | None = None
    temperature: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    typical_p: float | None = None
    do_sample: bool = False
    max_new_tokens: int | None = None
    return_full_text: bool | None = None
    stop: tuple[str, ...] = ()
    truncate: int | None = None
    watermark: bool = False
    details: bool = False
    decoder_input_details: bool = False
    seed: int | None = None
    top_n_tokens: int | None = None
    grammar: Grammar | None = None
    adapter_id: str | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """A request body. Without `parameters` it samples; with any it is greedy by default."""

    inputs: str
    parameters: Parameters


class _Mismatch(Exception):
    """A value of another type than its field."""


def _shown(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return f"boolean `{str(value).lower()}`"
        case int() if -(2**63) <= value < U64:
            return f"integer `{value}`"
        case int() | float():
            return f"floating point `{float(value)}`"
        case str():
            return f"string {json.dumps(value, ensure_ascii=False)}"
        case list():
            return "sequence"
        case _:
            return "map"


def _wrong(value: object, expected: str) -> _Mismatch:
    return _Mismatch(f"invalid type: {_shown(value)}, expected {expected}")


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise _wrong(value, "a string")
    return value


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise _wrong(value, "a boolean")
    return value


def _integer(name: str, low: int, high: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise _wrong(value, name)
        if not low <= value < high:
            raise _Mismatch(f"invalid value: integer `{value}`, expected {name}")
        return value

    return read


def _f32(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _wrong(value, "f32")
    try:
        narrow: float = struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        return math.copysign(math.inf, value)
    return narrow


def _strings(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise _wrong(value, "a sequence")
    return tuple(_string(item) for item in value)


def _grammar(value: object) -> Grammar:
    if not isinstance(value, dict):
        raise _wrong(value, "adjacently tagged enum GrammarType")
    for name in ("type", "value"):
        if name not in value:
            raise _Mismatch(f"missing field `{name}`")
    kind = _string(value["type"])
    if kind not in ("json", "json_object", "regex", "json_schema"):
        raise _Mismatch(f"unknown variant `{kind}`, expected one of `json`, `regex`, `json_schema`")
    content = _string(value["value"]) if kind == "regex" else value["value"]
    if kind == "json_schema":
        if not isinstance(content, dict) or "schema" not in content:
            raise _Mismatch("missing field `schema`")
        content = content["schema"]
    return Grammar(kind, content)


def _optional(read: Callable[[object], object]) -> Callable[[object], object]:
    return lambda value: None if value is None else read(value)


_u32, _usize = _integer("u32", 0, U32), _integer("usize", 0, U64)
_FIELDS: dict[str, Callable[[object], object]] = {
    "best_of": _optional(_usize),
    "temperature": _optional(_f32),
    "repetition_penalty": _optional(_f32),
    "frequency_penalty": _optional(_f32),
    "top_k": _optional(_integer("i32", -(2**31), 2**31)),
    "top_p": _optional(_f32),
    "typical_p": _optional(_f32),
    "do_sample": _boolean,
    "max_new_tokens": _optional(_u32),
    "return_full_text": _optional(_boolean),
    "stop": _strings,
    "truncate": _optional(_usize),
    "watermark": _boolean,
    "details": _boolean,
    "decoder_input_details": _boolean,
    "seed": _optional(_integer("u64", 0, U64)),
    "top_n_tokens": _optional(_u32),
    "grammar": _optional(_grammar),
    "adapter_id": _optional(_string),
}


def parameters_of(value: object, end: str) -> Parameters:
    if not isinstance(value, dict):
        mismatch = _wrong(value, "struct GenerateParameters")
        raise Rejection(422, f"{_SHAPE}parameters: {mismatch}{end}")
    known: dict[str, Any] = {}
    for name, read in _FIELDS.items():
        if name in value:
            try:
                known[name] = read(value[name])
            except _Mismatch as mismatch:
                raise Rejection(422, f"{_SHAPE}parameters.{name}: {mismatch}{end}") from None
    return Parameters(**known)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError("number out of range")
    return value


def _loads(body: bytes) -> object:
    """Strict JSON: no NaN, no lone surrogate, nothing but UTF-8, nothing after the value."""
    try:
        text = body.decode()
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
        json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        if not body:
            raise Rejection(400, _SYNTAX + "EOF while parsing a value at line 1 column 0") from None
        place = f"line {error.lineno} column {error.colno}"
        raise Rejection(400, f"{_SYNTAX}{error.msg.lower()} at {place}") from None
    except (ValueError, RecursionError) as error:
        raise Rejection(400, f"{_SYNTAX}{error} at line 1 column {len(body)}") from None
    return value


def object_of(body: bytes, content_type: str) -> dict[str, Any]:
    """Read an object of JSON. Raises Rejection."""
    essence = content_type.partition(";")[0].strip().lower()
    if essence != "application/json" and not (
        essence.startswith("application/") and essence.endswith("+json")
    ):
        raise Rejection(415, "Expected request with `Content-Type: application/json`")
    value = _loads(body)
    if not isinstance(value, dict):
        end = f" at line 1 column {len(body)}"
        raise Rejection(422, f"{_SHAPE}{_wrong(value, 'struct GenerateRequest')}{end}")
    return value


def decode(body: bytes, content_type: str) -> Request:
    """Read a GenerateRequest. Raises Rejection."""
    value, end = object_of(body, content_type), f" at line 1 column {len(body)}"
    if "inputs" not in value:
        raise Rejection(422, f"{_SHAPE}missing field `inputs`{end}")
    try:
        inputs = _string(value["inputs"])
    except _Mismatch as mismatch:
        raise Rejection(422, f"{_SHAPE}inputs: {mismatch}{end}") from None
    if "parameters" not in value:
        return Request(inputs, Parameters(do_sample=True))
    return Request(inputs, parameters_of(value["parameters"], end))
