"""The number of fields in a message, counted before it is parsed."""

from __future__ import annotations


def has_more(data: bytes, most: int) -> bool:
    """Return whether a message has more than `most` fields at its top, or breaks off in them.

    The items of a list are fields. Two million empty strings, which 4 MiB can hold, take the parser
    90 ms, in which the loop serves nobody. A group, which no request has, counts as too many.
    """
    at = count = 0
    try:
        while at < len(data):
            tag, at = _varint(data, at)
            match tag & 7:  # https://protobuf.dev/programming-guides/encoding
                case 0:
                    _, at = _varint(data, at)
                case 1:
                    at += 8
                case 2:
                    size, at = _varint(data, at)
                    at += size
                case 5:
                    at += 4
                case _:
                    return True
            count += 1
            if count > most:
                return True
    except IndexError:
        return True
    return False


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
