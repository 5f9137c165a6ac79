"""GGUF files of a few bytes, for llama.cpp to refuse."""

import struct

LLAMA = ("general.architecture", "llama")


def header(*entries: tuple[str, int | str]) -> bytes:
    """Return a GGUF file with this metadata and no tensors."""
    body = b""
    for key, value in entries:
        body += struct.pack("<Q", len(key)) + key.encode()
        if isinstance(value, int):
            body += struct.pack("<II", 4, value)
        else:
            body += struct.pack("<IQ", 8, len(value)) + value.encode()
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(entries)) + body


def array(key: str, kind: int, count: int, items: bytes = b"") -> bytes:
    """Return a GGUF file whose first key is an array of so many items of a kind."""
    begin = struct.pack("<Q", len(key)) + key.encode() + struct.pack("<IIQ", 9, kind, count)
    return header(LLAMA)[:16] + struct.pack("<Q", 1) + begin + items


def strings(*items: str) -> bytes:
    """Return strings as the items of an array."""
    return b"".join(struct.pack("<Q", len(item.encode())) + item.encode() for item in items)


def tokens(kind: str, *items: str, name: str = "a model") -> bytes:
    """Return a GGUF file whose tokenizer is of this kind, and has these tokens."""
    model: list[tuple[str, int | str]] = [
        LLAMA,
        ("llama.block_count", 1),
        ("llama.context_length", 512),
    ]
    whole = header(*model, ("tokenizer.ggml.model", kind), ("general.name", name))
    key = "tokenizer.ggml.tokens"
    vocabulary = struct.pack("<Q", len(key)) + key.encode()
    vocabulary += struct.pack("<IIQ", 9, 8, len(items)) + strings(*items)
    return whole[:16] + struct.pack("<Q", 6) + whole[24:] + vocabulary


UNKNOWN_ARCHITECTURE = header(
    ("general.architecture", "martian"),
    ("martian.block_count", 1),
    ("martian.context_length", 512),
)
