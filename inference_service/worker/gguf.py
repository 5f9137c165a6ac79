"""The header of a GGUF file, checked before llama.cpp reads the file.

llama.cpp aborts the whole process on some headers (a block count or context length of 0), so those
are refused here. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import struct
from pathlib import Path
from typing import BinaryIO

from .failure import ExitCode, WorkerError

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_INTEGERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 10: "<Q", 11: "<q"}
_STRING, _ARRAY = 8, 9
_NEEDED = ("block_count", "context_length")
_LONGEST_STRING = 1 << 24  # above any chat template: a greater length is damage, and not allocated


def context_length(path: Path) -> int:
    """Return the number of tokens that the model was trained for.

    Raises WorkerError, code 4, when the file is missing, is no GGUF file, or has a header that
    llama.cpp aborts on.
    """
    try:
        with path.open("rb") as file:
            metadata = _metadata(file)
    except OSError as error:
        raise _bad(f"{path} cannot be read: {error.strerror}") from error
    except (EOFError, UnicodeDecodeError, MemoryError, OverflowError) as error:
        raise _bad(f"{path} is damaged: its GGUF header ends early or makes no sense") from error
    architecture = metadata.get("general.architecture")
    if architecture is None:
        raise _bad(f"{path} is no model: its GGUF header names no architecture")
    for key in _NEEDED:
        value = metadata.get(f"{architecture}.{key}")
        if not isinstance(value, int) or value < 1:
            raise _bad(f"{path} has no usable {architecture}.{key} ({value})")
    length = metadata[f"{architecture}.context_length"]
    assert isinstance(length, int)
    return length


def _metadata(file: BinaryIO) -> dict[str, str | int]:
    """Read the keys that hold strings or integers, up to the last needed one.

    The vocabulary, hundreds of thousands of strings in some models, usually comes after them.
    """
    if _read(file, 4) != b"GGUF":
        raise _bad(f"{file.name} is not a GGUF file")
    _version, _tensors, count = struct.unpack("<IQQ", _read(file, 20))
    found: dict[str, str | int] = {}
    for _ in range(count):
        key = _string(file)
        (kind,) = struct.unpack("<I", _read(file, 4))
        if kind == _STRING:
            found[key] = _string(file)
        elif kind in _INTEGERS:
            (found[key],) = struct.unpack(_INTEGERS[kind], _read(file, _SIZES[kind]))
        else:
            _skip(file, kind)
        architecture = found.get("general.architecture")
        if all(f"{architecture}.{name}" in found for name in _NEEDED):
            break
    return found


def _skip(file: BinaryIO, kind: int) -> None:
    if kind == _ARRAY:
        inner, count = struct.unpack("<IQ", _read(file, 12))
        if inner in _SIZES:
            file.seek(_SIZES[inner] * count, 1)
        else:
            for _ in range(count):
                if inner == _STRING:
                    (length,) = struct.unpack("<Q", _read(file, 8))
                    file.seek(length, 1)
                else:
                    _skip(file, inner)
    elif kind in _SIZES:
        file.seek(_SIZES[kind], 1)
    else:
        raise EOFError


def _string(file: BinaryIO) -> str:
    (length,) = struct.unpack("<Q", _read(file, 8))
    if length > _LONGEST_STRING:
        raise EOFError
    return _read(file, length).decode()


def _read(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise EOFError
    return data


def _bad(message: str) -> WorkerError:
    return WorkerError(ExitCode.MODEL, "MODEL_UNUSABLE", f"{message}.")
