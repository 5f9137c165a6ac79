"""JSON schemas, as llama.cpp turns them into grammars.

Of what is refused here llama.cpp drops the keyword and says nothing, but for a string whose least
length is above its greatest: with that one llama.cpp never answers anybody again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from inference_service.engines.exchange import Options
from inference_service.engines.options.rules import decode, unset

_DROPPED = (
    *("not", "if", "then", "else", "multipleOf", "contains", "uniqueItems"),
    *("patternProperties", "propertyNames"),
    *(
        "minProperties",
        "maxProperties",
        "dependentSchemas",
        "dependentRequired",
        "unevaluatedItems",
    ),
    "unevaluatedProperties",
)
_PAIRS = (("minLength", "maxLength"), ("minItems", "maxItems"), ("minimum", "maximum"))
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_NUMBER = (int, float)
_LARGEST = 1 << 53
_LONE = 99  # a lower bound of 20 is kept by itself, one of 1000 is not
_PATTERN = re.compile(r"\^(?:[^\\($]|\((?!\?)|\\[][\\(){}|.$+*?^-])*\$", re.DOTALL)
_MAPS = ("properties", "$defs", "definitions")  # names of a caller's own, with schemas
_DATA = ("const", "enum", "default", "examples", "example")  # no schemas


def response_format(raw: msgspec.Raw, options: Options) -> str:
    """Check OpenAI's `response_format`. Other types are refused by llama.cpp itself."""
    form = decode(raw)
    if form is None:
        return ""
    if not isinstance(form, dict):
        return 'must be an object such as {"type": "json_object"}'
    if form.get("type") == "json_object":
        return schema_mistake(form["schema"], "schema") if "schema" in form else ""
    if form.get("type") != "json_schema":
        return ""
    inner = form.get("json_schema")
    if not isinstance(inner, dict) or "schema" not in inner:
        return "must have a schema, at `json_schema.schema`"
    return schema_mistake(inner["schema"], "json_schema.schema")


def json_schema(raw: msgspec.Raw, options: Options) -> str:
    """Check llama.cpp's own `json_schema`."""
    schema = decode(raw)
    return "" if schema is None else schema_mistake(schema, "it")


def tools(raw: msgspec.Raw, options: Options) -> str:
    """Check the tools of OpenAI's chat, each of which is a function."""
    for index, tool in enumerate(_listed(raw)):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or tool.get("type") != "function":
            return f"must have functions only (item {index} is none)"
        if mistake := _function(function, function.get("parameters"), index):
            return mistake
    return ""


def responses_tools(raw: msgspec.Raw, options: Options) -> str:
    """Check the tools of OpenAI's Responses. llama.cpp drops those that are no functions."""
    for index, tool in enumerate(_listed(raw)):
        if not isinstance(tool, dict) or tool.get("type") != "function":
            kind = tool.get("type") if isinstance(tool, dict) else tool
            return f"must have functions only, as no tool runs here (item {index} is {kind!r:.60})"
        if mistake := _function(tool, tool.get("parameters"), index):
            return mistake
    return ""


def anthropic_tools(raw: msgspec.Raw, options: Options) -> str:
    """Check the tools of Anthropic. llama.cpp takes one of the server's for an empty function."""
    for index, tool in enumerate(_listed(raw)):
        if not isinstance(tool, dict) or tool.get("type") not in (None, "custom"):
            kind = tool.get("type") if isinstance(tool, dict) else tool
            return f"must have tools of the caller, as none runs here: item {index} is {kind!r:.60}"
        if mistake := _function(tool, tool.get("input_schema"), index):
            return mistake
    return ""


def _listed(raw: msgspec.Raw) -> list[Any]:
    tools = decode(raw)
    if tools is None:
        return []
    if not isinstance(tools, list):
        raise msgspec.ValidationError("must be a list")
    return tools


def _function(function: dict[str, Any], parameters: object, index: int) -> str:
    """Check a function. Its schema only advises: a keyword that is dropped breaks no word."""
    if not isinstance(function.get("name"), str):
        return f"must have a `name` in item {index}"
    if not isinstance(function.get("description", ""), str | None):
        return f"must have a string as the `description` of item {index}"
    if not isinstance(parameters, dict | None):
        return f"must have a schema that is an object in item {index}"
    for schema in _walk(parameters):
        if mistake := _contradiction(schema):
            return f"{mistake} (item {index})"
    return ""


def schema_mistake(schema: object, where: str) -> str:
    """Return what is wrong with a schema that constrains an answer."""
    if not isinstance(schema, dict):
        return f"must have a schema that is an object, at `{where}`"
    for each in _walk(schema):
        if mistake := _contradiction(each) or _dropped(each):
            return mistake
    return ""


def _walk(schema: object) -> Iterator[dict[str, Any]]:
    """Yield every schema within."""
    left = [schema]
    while left:
        each = left.pop()
        if isinstance(each, list):
            left += each
        if not isinstance(each, dict):
            continue
        yield each
        for key, value in each.items():
            if key in _MAPS and isinstance(value, dict):
                left += value.values()
            elif key not in _DATA:
                left.append(value)


def _contradiction(schema: dict[str, Any]) -> str:
    for low, high in _PAIRS:
        least, most = schema.get(low), schema.get(high)
        if isinstance(least, _NUMBER) and isinstance(most, _NUMBER) and least > most:
            return f"must not have `{low}` above `{high}`"
    return ""


def _dropped(schema: dict[str, Any]) -> str:
    for key in _DROPPED:
        if key in schema and not unset(schema[key]):
            return (
                f"must not have `{key}`, which llama.cpp does not enforce: check the answer instead"
            )
    pattern = schema.get("pattern")
    if isinstance(pattern, str) and not _PATTERN.fullmatch(pattern):
        return "must have patterns from `^` to `$`, without `(?` and `\\d`: llama.cpp has no other"
    bounds = {key: schema[key] for key in _BOUNDS if _is_number(schema.get(key))}
    if bounds and schema.get("type") != "integer":
        return f"must have `{next(iter(bounds))}` for integers only: llama.cpp enforces no other"
    if any(abs(value) > _LARGEST for value in bounds.values()):
        return "must have bounds below 2**53: llama.cpp does not enforce others"
    low = max(bounds.get("minimum", 0), bounds.get("exclusiveMinimum", 0))
    if low > _LONE and not bounds.keys() & {"maximum", "exclusiveMaximum"}:
        return "must have a `maximum` beside so large a minimum: llama.cpp enforces only both"
    return ""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
