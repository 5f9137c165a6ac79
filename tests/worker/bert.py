"""A tiny BERT with random weights, as a GGUF file, with or without a head that makes scores."""

import random
import struct
from collections.abc import Sequence

WIDTH = 32
_CONTEXT = 512
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_WORDS = [f"▁{word}" for word in "a the cat dog kitten market fell sat on mat rug today".split()]
_LETTERS = [mark + chr(code) for mark in ("▁", "") for code in range(ord("a"), ord("z") + 1)]
_TOKENS = [*_SPECIAL, *_WORDS, *(letter for letter in _LETTERS if letter not in _WORDS)]
_UNKNOWN, _CONTROL, _NORMAL = 2, 3, 1
_POOLINGS = {"mean": 1, "cls": 2, "last": 3}


def bert(pooling: str | None = "mean", *, head: bool = False) -> bytes:
    """Return the file. `head` adds the tensors with which it reranks."""
    numbers = random.Random(0)
    tensors = _tensors(head)
    infos, data = b"", b""
    for name, shape in tensors:
        infos += _text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        infos += struct.pack("<IQ", 0, len(data))
        count = _count(shape)
        norm = name.endswith("norm.weight")
        values = [1.0] * count if norm else [numbers.gauss(0, 0.5) for _ in range(count)]
        data += struct.pack(f"<{count}f", *values)
        data += bytes(-len(data) % 32)
    keys = _keys(pooling)
    begin = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(keys) + infos
    return begin + bytes(-len(begin) % 32) + data


def _tensors(head: bool) -> list[tuple[str, Sequence[int]]]:
    """Return the names and the shapes, the innermost dimension first."""
    shapes: list[tuple[str, Sequence[int]]] = [
        ("token_embd.weight", (WIDTH, len(_TOKENS))),
        ("token_types.weight", (WIDTH, 2)),
        ("position_embd.weight", (WIDTH, _CONTEXT)),
    ]
    norms = ("token_embd_norm", "blk.0.attn_output_norm", "blk.0.layer_output_norm")
    shapes += [(f"{name}.{part}", (WIDTH,)) for name in norms for part in ("weight", "bias")]
    layers = {f"blk.0.attn_{part}": (WIDTH, WIDTH) for part in ("q", "k", "v", "output")}
    layers |= {"blk.0.ffn_up": (WIDTH, 2 * WIDTH), "blk.0.ffn_down": (2 * WIDTH, WIDTH)}
    if head:
        layers |= {"cls": (WIDTH, WIDTH), "cls.output": (WIDTH, 1)}
    for name, (inner, outer) in layers.items():
        shapes += [(f"{name}.weight", (inner, outer)), (f"{name}.bias", (outer,))]
    return shapes


def _keys(pooling: str | None) -> list[bytes]:
    keys = [
        _key("general.architecture", 8, _text("bert")),
        _key("bert.attention.layer_norm_epsilon", 6, struct.pack("<f", 1e-12)),
        _key("bert.attention.causal", 7, b"\0"),
        _key("tokenizer.ggml.model", 8, _text("bert")),
        _key("tokenizer.ggml.tokens", 9, _array(8, [_text(token) for token in _TOKENS])),
    ]
    types = [_type(token) for token in _TOKENS]
    keys.append(_key("tokenizer.ggml.token_type", 9, _array(5, types)))
    numbers = {
        "bert.context_length": _CONTEXT,
        "bert.embedding_length": WIDTH,
        "bert.feed_forward_length": 2 * WIDTH,
        "bert.block_count": 1,
        "bert.attention.head_count": 2,
        "tokenizer.ggml.token_type_count": 2,
    }
    ids = ("padding", "unknown", "bos", "seperator", "mask")  # the format writes it so
    numbers |= {f"tokenizer.ggml.{name}_token_id": id for id, name in enumerate(ids)}
    if pooling is not None:
        numbers["bert.pooling_type"] = _POOLINGS[pooling]
    return [*keys, *(_key(name, 4, struct.pack("<I", value)) for name, value in numbers.items())]


def _type(token: str) -> bytes:
    special = _UNKNOWN if token == "[UNK]" else _CONTROL
    return struct.pack("<i", special if token in _SPECIAL else _NORMAL)


def _key(name: str, kind: int, value: bytes) -> bytes:
    return _text(name) + struct.pack("<I", kind) + value


def _array(kind: int, items: list[bytes]) -> bytes:
    return struct.pack("<IQ", kind, len(items)) + b"".join(items)


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _count(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
