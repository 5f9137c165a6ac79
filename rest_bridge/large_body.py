"""Large bodies of requests, decoded without holding the loop.

pydantic makes an object of all that a body has, and one of each mistake: 4 MiB of wrong values took
13 s, in which nobody else was served. msgspec knows the types, stops at the first mistake, and
needs 40 ms for the worst 4 MiB.
"""

import re
from functools import cache
from typing import Any

import msgspec
from pydantic import BaseModel

from inference_service import malformed
from rest_bridge.bodies import Int32
from rest_bridge.errors import BridgeError

# Up to this size pydantic needs 10 ms at most, and all mistakes are told.
SMALL = 8 * 1024

_AT = re.compile(r" - at `\$\.?(.*)`$", re.DOTALL)
_TYPES = re.compile(r"Expected `(\w+).*`, got `(\w+)`")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_WORDS = {
    "array": "a list of strings",
    "bool": "true or false",
    "float": "a number",
    "int": "a whole number",
    "object": "a JSON object",
    "str": "a string",
}


def decode(body: bytes, model: type[BaseModel]) -> dict[str, Any]:
    """Return the fields of a body, each of the type that the model declares.

    Raises BridgeError with the first mistake. Bounds are not checked here, but for the documented
    length of a list, since each item costs time later.
    """
    try:
        fields = _decoder(model).decode(body)
    except msgspec.ValidationError as error:
        raise _refused(_sentence(str(error), model)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if (field := malformed.field_in(body)) is not None:
            raise _refused(f"{field} {malformed.SENTENCE}") from None
        reason = str(error).removeprefix("JSON is malformed: ")
        raise _refused(f"the body is not valid JSON: {reason}") from None
    given = {name: getattr(fields, name) for name in model.model_fields}
    given = {name: value for name, value in given.items() if value is not msgspec.UNSET}
    for name, value in given.items():
        if isinstance(value, list) and len(value) > (most := _most(model, name)):
            raise _refused(f"{name} must have at most {most} items, not {len(value)}")
    return given


def _most(model: type[BaseModel], name: str) -> int:
    schema: Any = model.model_fields[name].json_schema_extra
    most: int = schema["maxItems"]
    return most


@cache
def _decoder(model: type[BaseModel]) -> msgspec.json.Decoder[Any]:
    fields = [
        (name, _type(field.annotation) | msgspec.UnsetType, msgspec.UNSET)
        for name, field in model.model_fields.items()
    ]
    struct = msgspec.defstruct(model.__name__, fields, forbid_unknown_fields=True)
    return msgspec.json.Decoder(struct)


def _type(annotation: Any) -> Any:
    return annotation | float if annotation == Int32 | None else annotation


def _sentence(mistake: str, model: type[BaseModel]) -> str:
    """Describe a mistake that msgspec has found, in the words of the other ones."""
    at = _AT.search(mistake)
    where = at[1] if at else "the body"
    if types := _TYPES.match(mistake):
        wanted, got = (_WORDS.get(kind, kind) for kind in types.groups())
        return f"{where} must be {wanted}, not {got}"
    if unknown := _UNKNOWN.match(mistake):
        fields = ", ".join(model.model_fields)
        return f"{unknown[1][:40]!r} is not a field; the fields are {fields}"
    what = _AT.sub("", mistake)
    return f"{where}: {what[0].lower()}{what[1:]}"


def _refused(detail: str) -> BridgeError:
    return BridgeError("INVALID_PARAMETER", detail)
