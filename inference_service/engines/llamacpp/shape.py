"""The shape of a model, from the header of its GGUF file: how long a context, and how much memory.

The worker reads headers, too (`worker/gguf.py`), but by `mmap`: a file that shrinks meanwhile would
end the whole service. This module reads no further than to the numbers that it needs.
"""

from __future__ import annotations

import io
import os
import re
import stat
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_NUMBERS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_STRING, _ARRAY = 8, 9
_TOKENS = "tokenizer.ggml.tokens"
_MOST_BYTES = 64 << 20  # of a header; the largest vocabularies take 20 MB with their merges
_MOST_KEYS = 1 << 16
_MOST_STRINGS = 1 << 20  # 1.1 s, where the numbers stand behind so many
_LONGEST_NAME = 1 << 16
_FIRST = re.compile(r"(.+)-00001-of-(\d{5})\.gguf")
_MOST_PARTS = 1000
_MOST_LAYERS = 4096  # values of an array that has one for each layer
_NEEDED = ("context_length", "block_count", "embedding_length", "attention.head_count")

_LEAST_CONTEXT = 64  # of the worker, whatever the model has
_CONTEXT_UNIT = 256  # llama.cpp rounds the context of a slot up to a multiple of it
_HALF, _FLOAT = 2, 4  # bytes of a number in the cache, and in a buffer
_BATCH = 512  # tokens that llama.cpp computes at once
_MOST_MEMORY = 1 << 50  # whatever numbers a file has
_BASE = 128 << 20  # the worker without a model, and small buffers


class Unreadable(Exception):
    """A file whose shape cannot be read; the message begins with its path."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What the memory of a model depends on.

    `context_length` is the number of tokens that the model was trained for. `cached` is the bytes
    that one token takes in the cache, `state` those that a slot takes whatever its context, and
    `wide` the numbers that a token of a batch needs at once.
    """

    context_length: int
    file_bytes: int
    cached: int
    state: int
    wide: int

    def memory(self, context: int, slots: int, *, text: bool = True) -> int:
        """Return the bytes that a worker needs, estimated and rather too many.

        These are the file, the cache of each slot, the buffers of a batch, and what the worker
        takes without a model. What is no `text` is computed in one batch.
        """
        rounded = -(-context // _CONTEXT_UNIT) * _CONTEXT_UNIT
        batch = _BATCH if text else max(_BATCH, rounded)
        cache = slots * (rounded * self.cached + self.state)
        whole = self.file_bytes + cache + batch * self.wide * _FLOAT + _BASE
        return min(whole, _MOST_MEMORY)


def read(path: Path) -> Shape:
    """Read the shape of a model. Raises Unreadable."""
    try:
        with _opened(path) as file:
            found = _Reader(file).read()
        return _shape(found, _size(path))
    except OSError as error:
        raise Unreadable(f"{path} cannot be read: {error.strerror}") from None
    except (_Damaged, UnicodeDecodeError, struct.error) as error:
        cause = str(error) if isinstance(error, _Damaged) else "its header makes no sense"
        raise Unreadable(f"{path} cannot be read as GGUF: {cause}") from None


def _size(path: Path) -> int:
    """Return the bytes of the weights, which can be split: `m-00001-of-00002.gguf` and so on."""
    if (match := _FIRST.fullmatch(path.name)) is None:
        return path.stat().st_size
    parts = range(1, min(int(match[2]), _MOST_PARTS) + 1)
    names = [f"{match[1]}-{part:05}-of-{match[2]}.gguf" for part in parts]
    return sum(other.stat().st_size for name in names if (other := path.with_name(name)).is_file())


class _Damaged(Exception):
    """A header that ends early, makes no sense, or lacks a number."""


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file; a pipe that stands in its place is not waited for."""
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(number, "rb", buffering=1 << 16) as file:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise _Damaged("it is not a file")
        yield file


def _shape(found: Mapping[str, int | str | list[int]], size: int) -> Shape:
    architecture = found.get("general.architecture")

    def number(key: str, default: int = 0) -> int:
        value = found.get(f"{architecture}.{key}", default)
        value = max(value, default=0) if isinstance(value, list) else value
        return value if isinstance(value, int) and 0 <= value < 1 << 32 else default

    if not isinstance(architecture, str) or not architecture:
        raise _Damaged("its header names no architecture")
    for key in _NEEDED[:2]:
        if number(key) < 1:
            raise _Damaged(f"its header has no usable {architecture}.{key}")
    layers, width, heads = (number(key) for key in _NEEDED[1:])
    head = width // heads if heads else 0
    cached = number("attention.key_length", head) + number("attention.value_length", head)
    cached *= _HALF * _cached_heads(
        found.get(f"{architecture}.attention.head_count_kv"), heads, layers
    )
    state = number("ssm.inner_size") * (number("ssm.state_size") + number("ssm.conv_kernel"))
    # The scores of all tokens, the two halves of a layer's widest part, and its inputs.
    tokens = found.get(_TOKENS, 0)
    wide = (tokens if isinstance(tokens, int) else 0) + 4 * number("feed_forward_length")
    wide += 8 * width
    length = max(_LEAST_CONTEXT, number("context_length"))
    return Shape(length, size, cached, _FLOAT * layers * state, wide)


def _cached_heads(given: object, heads: int, layers: int) -> int:
    """Return the heads in the cache of all layers; some files have a number for each layer."""
    if isinstance(given, list):
        return sum(given)
    return layers * (given if isinstance(given, int) else heads)


class _Reader:
    """A reader of the numbers in a header, up to the last that is needed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._found: dict[str, int | str | list[int]] = {}
        self._strings = 0
        self._bytes = 0

    def read(self) -> Mapping[str, int | str | list[int]]:
        """Return the values by key; of the vocabulary there is the number of its tokens."""
        if self._file.read(4) != b"GGUF":  # which may be the whole of the file
            raise _Damaged("it does not begin with GGUF")
        _version, _tensors, count = self._numbers("<IQQ")
        if count > _MOST_KEYS:
            raise _Damaged(f"its header has {count} keys")
        for _ in range(count):
            if self._key():
                break
        return self._found

    def _key(self) -> bool:
        """Read a key and its value, and return whether there is enough."""
        name = self._text()
        (kind,) = self._numbers("<I")
        if kind == _STRING:
            if name == "general.architecture":
                self._found[name] = self._text()
            else:
                self._skip(self._numbers("<Q")[0])
            return False
        if kind != _ARRAY:
            (value,) = self._numbers(_layout(kind))
            self._found[name] = int(value) if kind not in (6, 12) else 0
            return False
        kind, count = self._numbers("<IQ")
        if name == _TOKENS:
            self._found[name] = min(count, _MOST_STRINGS)
            if self._enough():
                return True
        self._array(name, kind, count)
        return False

    def _enough(self) -> bool:
        architecture = self._found.get("general.architecture")
        return all(f"{architecture}.{key}" in self._found for key in _NEEDED)

    def _array(self, name: str, kind: int, count: int) -> None:
        if kind == _STRING:
            self._strings += count
            if self._strings > _MOST_STRINGS:
                raise _Damaged(f"its header has {self._strings} strings")
            for _ in range(count):
                self._skip(self._numbers("<Q")[0])
            return
        layout = _layout(kind)
        size = struct.calcsize(layout)
        if count <= _MOST_LAYERS and kind not in (6, 12):
            data = self._take(count * size)
            self._found[name] = [
                max(0, int(value)) for (value,) in struct.iter_unpack(layout, data)
            ]
        else:
            self._skip(count * size)

    def _text(self) -> str:
        (length,) = self._numbers("<Q")
        if length > _LONGEST_NAME:
            raise _Damaged(f"its header has a name of {length} bytes")
        return self._take(length).decode()

    def _numbers(self, layout: str) -> tuple[int, ...]:
        return struct.unpack(layout, self._take(struct.calcsize(layout)))

    def _take(self, size: int) -> bytes:
        data = self._file.read(self._counted(size))
        if len(data) < size:
            raise _Damaged("its header ends early")
        return data

    def _skip(self, size: int) -> None:
        self._file.seek(self._counted(size), io.SEEK_CUR)

    def _counted(self, size: int) -> int:
        self._bytes += size
        if self._bytes > _MOST_BYTES:
            raise _Damaged(f"its header has more than {_MOST_BYTES} bytes, or ends early")
        return size


def _layout(kind: int) -> str:
    if kind not in _NUMBERS:
        raise _Damaged(f"its header has a value of the unknown kind {kind}")
    return _NUMBERS[kind]
