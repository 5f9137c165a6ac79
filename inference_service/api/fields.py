"""The fields of a message, looked at without the parser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from google.protobuf.descriptor import Descriptor, FieldDescriptor

_MOST = 1000  # fields in which a malformed text is looked for
_BYTES = 2  # the wire type of texts, bytes, and messages


class Field(NamedTuple):
    """A field: its number, its wire type, and where its value begins and ends."""

    number: int
    wire_type: int
    begin: int
    end: int


def has_more(data: bytes, most: int) -> bool:
    """Return whether a message has more than `most` fields at its top, or breaks off in them.

    The items of a list are fields. Two million empty strings, which 4 MiB can hold, take the parser
    90 ms, in which the loop serves nobody. A group, which no request has, counts as too many.
    """
    try:
        return any(count > most for count, _ in enumerate(_fields(data, 0, len(data)), 1))
    except IndexError:
        return True


def malformed_text(data: bytes, message: Descriptor) -> str | None:
    """Return the field of a message, such as `stop[1]`, whose text is not UTF-8; None without one.

    The parser refuses such a message, and does not say why.
    """
    try:
        return _malformed_text(data, message, 0, len(data))
    except IndexError:
        return None


def _malformed_text(data: bytes, message: Descriptor, begin: int, end: int) -> str | None:
    seen: dict[str, int] = {}
    for count, each in enumerate(_fields(data, begin, end)):
        field = message.fields_by_number.get(each.number)
        if count == _MOST:
            break
        if field is None or each.wire_type != _BYTES:
            continue
        name = str(field.name)
        if field.is_repeated:
            name += f"[{seen.setdefault(name, 0)}]"
            seen[field.name] += 1
        if field.type == FieldDescriptor.TYPE_STRING and not _is_utf8(data[each.begin : each.end]):
            return name
        if field.message_type is not None:
            inner = _malformed_text(data, field.message_type, each.begin, each.end)
            if inner is not None:
                return f"{name}.{inner}"
    return None


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _fields(data: bytes, at: int, end: int) -> Iterator[Field]:
    """Yield the fields of a message. Raises IndexError where it breaks off, and for a group."""
    while at < end:
        tag, at = _varint(data, at)
        begin = at
        match tag & 7:  # https://protobuf.dev/programming-guides/encoding
            case 0:
                _, at = _varint(data, at)
            case 1:
                at += 8
            case 2:
                size, begin = _varint(data, at)
                at = begin + size
            case 5:
                at += 4
            case _:
                raise IndexError("a group")
        yield Field(tag >> 3, tag & 7, begin, at)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the number at a place, and the place behind it. Raises IndexError for none."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise IndexError("a number has ten bytes at most")
