"""The header of a GGUF file, checked before llama.cpp reads the file.

llama.cpp aborts the whole process on some headers (a block count or context length of 0), so those
are refused here. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md

A header is read within bounds of its own, for a file can come from anybody: the work grows neither
with the numbers in the header nor with the size of the file.
"""

import errno
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import control
from .failure import ExitCode, WorkerError

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_INTEGERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 7: "<?", 10: "<Q", 11: "<q"}
_INT32, _STRING, _ARRAY = 5, 8, 9
_LONGEST_STRING = 1 << 16  # of a key, by the format; of the values that are read here, too
_MOST_KEYS = 1 << 16
# The largest vocabularies have 262,144 tokens, and up to 514,906 merges (gemma-4).
_MOST_STRINGS = 1 << 22
_MOST_TENSORS = 1 << 18
_LONGEST_CONTROL = 512  # bytes of a control token
_length = struct.Struct("<Q").unpack_from

# Of a file that is not there, or not for this user; others may pass, as those of a disk do.
_LASTING = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP)

_MODEL, _TOKENS = "tokenizer.ggml.model", "tokenizer.ggml.tokens"
_TYPES, _TEMPLATE = "tokenizer.ggml.token_type", "tokenizer.chat_template"
_NAME = "general.name"
_POOLINGS = {1: "mean", 2: "cls", 3: "last"}
_HEAD = b"cls."  # the tensors of a head that makes scores

# The bytes that UTF-8 has, as GPT-2 writes them in tokens: as themselves where they can be printed,
# and else, in their order, as the characters from U+0100 on.
_PRINTED = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
_OTHERS = [byte for byte in range(256) if byte not in _PRINTED]
_BYTES = {
    chr(byte if byte in _PRINTED else 0x100 + _OTHERS.index(byte)).encode()
    for byte in range(0xF5)
    if byte not in (0xC0, 0xC1)
}


@dataclass(frozen=True, slots=True)
class Header:
    """What a worker has to know of a model.

    `context_length` is the number of tokens that the model was trained for. `longest_token` is the
    length of the longest token in bytes, so that a text of n bytes has at least n / `longest_token`
    tokens; 0 where the tokenizer can drop a part of a text, for then nothing follows from its size.
    `control_tokens` is None where there are too many; see `control`. `has_template` says that the
    file has a chat template. `pooling` is how it makes embeddings, where it says so. `ranks` says
    that it has a head for scores. `causal` is false for a model that makes no text, as BERT's kin.
    """

    context_length: int
    longest_token: int
    control_tokens: tuple[str, ...] | None = ()
    has_template: bool = False
    pooling: str | None = None
    ranks: bool = False
    causal: bool = True


class _Damaged(Exception):
    """A header that ends early, or makes no sense."""


def read(path: Path) -> Header:
    """Read the header of a file.

    Raises WorkerError, code 4, when the file is missing, is no GGUF file, or has a header that
    llama.cpp aborts on.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
            if data[:4] != b"GGUF":
                raise _bad(f"{path} is not a GGUF file")
            reader = _Reader(data)
            reader.read()
            control_tokens = control.control_tokens(reader.special())
    except OSError as error:
        reason = "MODEL_UNUSABLE" if error.errno in _LASTING else "MODEL_UNREADABLE"
        message = f"{path} cannot be read: {error.strerror}."
        raise WorkerError(ExitCode.MODEL, reason, message) from error
    except (_Damaged, struct.error, ValueError) as error:  # such as an empty file
        cause = str(error) if isinstance(error, _Damaged) else "ends early or makes no sense"
        raise _bad(f"{path} is damaged: its GGUF header {cause}") from error
    architecture = reader.found.get("general.architecture")
    if not isinstance(architecture, str):
        raise _bad(f"{path} is no model: its GGUF header names no architecture")
    for key in reader.needed:
        value = reader.found.get(key)
        if not isinstance(value, int) or value < 1:
            raise _bad(f"{path} has no usable {key} ({value})")
    length = reader.found[f"{architecture}.context_length"]
    assert isinstance(length, int)
    pooling = reader.found.get(f"{architecture}.pooling_type")
    return Header(
        length,
        reader.longest_token,
        control_tokens,
        reader.has_template,
        _POOLINGS.get(pooling) if isinstance(pooling, int) else None,
        reader.ranks,
        bool(reader.found.get(f"{architecture}.attention.causal", True)),
    )


class _Reader:
    """A reader of the keys that hold strings or integers, of the tokens, and of tensors' names."""

    def __init__(self, data: mmap.mmap) -> None:
        self.found: dict[str, str | int] = {}
        self.has_template = False
        self.ranks = False
        self._data = data
        self._at = 4
        self._strings = 0
        self._longest: int | None = None
        self._short: set[bytes] = set()  # the tokens of one or two bytes
        self._tokens = (0, 0)  # where they begin, and how many there are
        self._types = b""

    @property
    def needed(self) -> tuple[str, str]:
        """The keys without which llama.cpp aborts."""
        architecture = self.found.get("general.architecture")
        return f"{architecture}.block_count", f"{architecture}.context_length"

    @property
    def longest_token(self) -> int:
        """See `Header`.

        Of llama.cpp's tokenizers, only those of SentencePiece (`llama`, with a token for each byte)
        and those of bytes (`gpt2`, if it has a token for each byte that a text can have; others are
        left out of the text) keep the whole text. Those of `t5` and `bert` drop white space, and
        the special tokens of Phi-3 take that which follows them (`_set_token_attr` in
        src/llama-vocab.cpp). The tokens of a file are never shorter than the text that they stand
        for: a space is `Ġ` or `▁` there.
        """
        kind, name = self.found.get(_MODEL), str(self.found.get(_NAME, "")).lower()
        keeps = kind == "llama" or (kind == "gpt2" and self._short >= _BYTES)
        if not keeps or "phi-3" in name or "phi3" in name:
            return 0
        return self._longest or 0

    def read(self) -> None:
        """Read the keys, and the names of the tensors."""
        _version, tensors, count = self._numbers("<IQQ")
        if count > _MOST_KEYS:
            raise _Damaged(f"has {count} keys")
        for _ in range(count):
            self._key()
        for _ in range(min(tensors, _MOST_TENSORS)):
            self._tensor()

    def special(self) -> Iterator[tuple[str, int]]:
        """Yield the tokens that can be control tokens, with their types."""
        data, (at, count) = self._data, self._tokens
        ends = {token.encode() for token in control.ENDS}
        types = memoryview(self._types).cast("i") if len(self._types) == 4 * count else [0] * count
        for kind in types:
            (size,) = _length(data, at)
            at += 8
            if size <= _LONGEST_CONTROL and (kind in control.TYPES or data[at : at + size] in ends):
                yield data[at : at + size].decode(errors="replace"), kind
            at += size

    def _key(self) -> None:
        key = self._text()
        (kind,) = self._numbers("<I")
        if kind == _STRING:
            self._string(key)
        elif kind in _INTEGERS:
            (self.found[key],) = self._numbers(_INTEGERS[kind])
        elif kind == _ARRAY:
            self._array(key)
        else:
            self._skip(_size(kind))

    def _string(self, key: str) -> None:
        if key == "general.architecture" or key in (_MODEL, _NAME):
            self.found[key] = self._text()
        else:
            (size,) = self._numbers("<Q")
            self._skip(size)
            self.has_template |= key == _TEMPLATE and size > 0

    def _array(self, key: str) -> None:
        kind, count = self._numbers("<IQ")
        if kind == _ARRAY:  # llama.cpp reads none either
            raise _Damaged("has an array of arrays")
        if kind != _STRING:
            begin = self._at
            self._skip(_size(kind) * count)
            if key == _TYPES and kind == _INT32:
                self._types = self._data[begin : self._at]
            return
        self._strings += count
        if self._strings > _MOST_STRINGS:
            raise _Damaged(f"has {self._strings} strings")
        begin = self._at
        longest, short = self._walk(count)
        if key == _TOKENS:
            self._longest, self._short = longest, short
            self._tokens = begin, count

    def _tensor(self) -> None:
        (size,) = self._numbers("<Q")
        begin = self._at
        self._skip(size)
        self.ranks |= self._data[begin : begin + len(_HEAD)] == _HEAD
        (dimensions,) = self._numbers("<I")
        self._skip(8 * dimensions + 12)  # then its type, and its place in the file

    def _walk(self, count: int) -> tuple[int, set[bytes]]:
        """Pass over strings, and return the length of the longest and those of one or two bytes.

        This takes 0.06 s for 262,144 tokens.
        """
        short: set[bytes] = set()
        data, at, end, longest = self._data, self._at, len(self._data), 0
        for _ in range(count):
            (size,) = _length(data, at)
            at += 8
            if size < 3:
                short.add(data[at : at + size])
            if size > longest:
                longest = size
            at += size
            if at > end:
                raise _Damaged("ends early")
        self._at = at
        return longest, short

    def _text(self) -> str:
        (length,) = self._numbers("<Q")
        if length > _LONGEST_STRING:
            raise _Damaged(f"has a name of {length} bytes")
        begin = self._at
        self._skip(length)
        return self._data[begin : self._at].decode()

    def _numbers(self, layout: str) -> tuple[int, ...]:
        numbers = struct.unpack_from(layout, self._data, self._at)
        self._at += struct.calcsize(layout)
        return numbers

    def _skip(self, size: int) -> None:
        self._at += size
        if self._at > len(self._data):
            raise _Damaged("ends early")


def _size(kind: int) -> int:
    if kind not in _SIZES:
        raise _Damaged(f"has a value of the unknown kind {kind}")
    return _SIZES[kind]


def _bad(message: str) -> WorkerError:
    return WorkerError(ExitCode.MODEL, "MODEL_UNUSABLE", f"{message}.")
