"""What the service reads of a GGUF file, and within which bounds."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from inference_service.catalog import BUILT_IN
from inference_service.engines.llamacpp import shape
from tests.worker.bert import bert
from tests.worker.gguf import LLAMA, array, header, strings, tokens

STORY = BUILT_IN.parent / "story_mini" / "story-mini.gguf"
MiB = 1 << 20

LAYERS, CONTEXT = ("llama.block_count", 2), ("llama.context_length", 4096)
WIDTH, HEADS = ("llama.embedding_length", 64), ("llama.attention.head_count", 8)
MODEL = (LLAMA, LAYERS, CONTEXT, WIDTH, HEADS)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


def read(file: Path, content: bytes) -> shape.Shape:
    file.write_bytes(content)
    return shape.read(file)


def layered(key: str, *values: int) -> bytes:
    """Return a key with a number for each layer."""
    items = struct.pack(f"<{len(values)}I", *values)
    name = struct.pack("<Q", len(key)) + key.encode()
    return name + struct.pack("<IIQ", 9, 4, len(values)) + items


def with_key(content: bytes, key: bytes) -> bytes:
    """Return a file with one more key at the end."""
    (count,) = struct.unpack_from("<Q", content, 16)
    return content[:16] + struct.pack("<Q", count + 1) + content[24:] + key


def test_the_story_model() -> None:
    found = shape.read(STORY)

    assert (found.context_length, found.file_bytes) == (512, STORY.stat().st_size)
    # Its engine takes up to 52 MB with 8 slots.
    assert 52 * MiB < found.memory(512, 8) < 256 * MiB


def test_an_encoder(file: Path) -> None:
    assert read(file, bert()).context_length == 512


def test_a_token_has_a_key_and_a_value_for_each_head_of_each_layer(file: Path) -> None:
    assert read(file, header(*MODEL)).cached == 2 * 8 * (8 + 8) * 2


def test_heads_can_share_keys_and_have_sizes_of_their_own(file: Path) -> None:
    shared = ("llama.attention.head_count_kv", 2)
    sizes = ("llama.attention.key_length", 32), ("llama.attention.value_length", 16)

    assert read(file, header(*MODEL, shared)).cached == 2 * 2 * (8 + 8) * 2
    assert read(file, header(*MODEL, shared, *sizes)).cached == 2 * 2 * (32 + 16) * 2


def test_layers_can_have_different_numbers_of_heads_in_the_cache(file: Path) -> None:
    content = with_key(header(*MODEL), layered("llama.attention.head_count_kv", 3, 0))

    assert read(file, content).cached == 3 * (8 + 8) * 2


def test_a_recurrent_model_has_a_state_for_each_slot(file: Path) -> None:
    ssm = ("llama.ssm.inner_size", 100), ("llama.ssm.state_size", 16), ("llama.ssm.conv_kernel", 4)
    found = read(file, header(*MODEL, *ssm))

    assert found.state == 2 * 100 * (16 + 4) * 4
    assert found.memory(64, 3) - found.memory(64, 2) == found.state + 256 * found.cached


def test_the_context_is_counted_as_llamacpp_rounds_it(file: Path) -> None:
    found = read(file, header(*MODEL))

    assert found.memory(257, 1) == found.memory(512, 1) > found.memory(256, 1)


def test_vectors_are_computed_in_one_batch(file: Path) -> None:
    found = read(file, header(*MODEL))

    more = found.memory(2048, 1, text=False) - found.memory(2048, 1)
    assert more == (2048 - 512) * found.wide * 4


def test_the_vocabulary_may_come_before_the_numbers(file: Path) -> None:
    vocabulary = tokens("gpt2", "a", "b")
    assert read(file, vocabulary).context_length == 512
    one = array("tokenizer.ggml.tokens", 8, 2, strings("a", "b"))
    late = one[:16] + struct.pack("<Q", 6) + one[24:] + header(*MODEL)[24:]

    assert read(file, late).context_length == 4096


def test_nothing_after_the_numbers_is_read(file: Path) -> None:
    vocabulary = array("tokenizer.ggml.tokens", 8, 1 << 40)[24:]

    assert read(file, with_key(header(*MODEL), vocabulary)).context_length == 4096


def test_a_split_file_counts_with_its_parts(tmp_path: Path) -> None:
    first = tmp_path / "m-00001-of-00002.gguf"
    content = header(*MODEL)
    (tmp_path / "m-00002-of-00002.gguf").write_bytes(bytes(1000))
    (tmp_path / "m-00003-of-00003.gguf").write_bytes(bytes(1000))

    assert read(first, content).file_bytes == len(content) + 1000


def test_a_context_shorter_than_the_worker_has_is_that_of_the_worker(file: Path) -> None:
    assert read(file, header(LLAMA, LAYERS, ("llama.context_length", 8))).context_length == 64


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "it does not begin with GGUF"),
        (b"<html>", "it does not begin with GGUF"),
        (b"GGUF", "ends early"),
        (header(*MODEL)[:-1], "ends early"),
        (header(), "names no architecture"),
        (header(LLAMA, LAYERS), "no usable llama.context_length"),
        (header(LLAMA, LAYERS, ("llama.context_length", 0)), "no usable llama.context_length"),
        (header(LLAMA, CONTEXT), "no usable llama.block_count"),
        (header()[:16] + struct.pack("<Q", 1 << 40), "has 1099511627776 keys"),
        (array("a", 8, 1 << 40), "has 1099511627776 strings"),
        (array("a", 8, 1, struct.pack("<Q", 1 << 62)), "more than 67108864 bytes"),
        (array("a", 4, 1 << 40), "more than 67108864 bytes"),
        (array("a", 99, 1), "unknown kind 99"),
        (array("a", 9, 1), "unknown kind 9"),
        (header(("a" * 70_000, 1)), "has a name of 70000 bytes"),
    ],
)
def test_a_header_that_cannot_be_used(file: Path, content: bytes, cause: str) -> None:
    with pytest.raises(shape.Unreadable) as unreadable:
        read(file, content)

    assert str(unreadable.value).startswith(f"{file} cannot be read as GGUF: ")
    assert cause in str(unreadable.value)


def test_numbers_without_a_bound_have_one_here(file: Path) -> None:
    most = (1 << 32) - 1
    keys = [("llama.context_length", most), ("llama.block_count", most), WIDTH, HEADS]

    assert read(file, header(LLAMA, *keys)).memory(10_000_000, 64) == 1 << 50


def test_a_pipe_is_not_waited_for(file: Path) -> None:
    os.mkfifo(file)

    with pytest.raises(shape.Unreadable, match="it is not a file"):
        shape.read(file)


def test_a_file_that_is_not_there(file: Path) -> None:
    with pytest.raises(shape.Unreadable, match=r"cannot be read: No such file or directory"):
        shape.read(file)
