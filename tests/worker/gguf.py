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


UNKNOWN_ARCHITECTURE = header(
    ("general.architecture", "martian"),
    ("martian.block_count", 1),
    ("martian.context_length", 512),
)
