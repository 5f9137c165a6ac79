"""The model file in the package: small, whole, and with the metadata for sensible text."""

import struct
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import pytest

import inference_service

FILE = Path(inference_service.__file__).parent / "story_mini" / "story-mini.gguf"
CONTROL = 3
STRING, ARRAY = 8, 9
# The number types of GGUF by their code, as `struct` spells them.
NUMBERS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}


def read_number(file: BinaryIO, form: str) -> int | float | bool:
    (number,) = struct.unpack("<" + form, file.read(struct.calcsize("<" + form)))
    assert isinstance(number, (int, float))
    return number


def read_string(file: BinaryIO) -> str:
    return file.read(int(read_number(file, "Q"))).decode()


def read_value(file: BinaryIO, kind: int) -> object:
    if kind == STRING:
        return read_string(file)
    if kind == ARRAY:
        item_kind, length = int(read_number(file, "I")), int(read_number(file, "Q"))
        return [read_value(file, item_kind) for _ in range(length)]
    return read_number(file, NUMBERS[kind])


@pytest.fixture(scope="module")
def metadata() -> dict[str, object]:
    file = BytesIO(FILE.read_bytes())
    assert file.read(4) == b"GGUF"
    assert read_number(file, "I") == 3  # the version of the format
    read_number(file, "Q")  # the number of tensors
    entries = int(read_number(file, "Q"))
    return {
        read_string(file): read_value(file, int(read_number(file, "I"))) for _ in range(entries)
    }


def test_the_file_is_small_enough_for_a_package() -> None:
    assert 1_000_000 < FILE.stat().st_size < 5_000_000


def test_the_file_is_the_model_of_the_catalog(metadata: dict[str, object]) -> None:
    assert metadata["general.name"] == "story-mini"
    assert metadata["general.architecture"] == "llama"
    assert metadata["llama.context_length"] == 512


def test_text_is_split_as_in_training(metadata: dict[str, object]) -> None:
    assert metadata["tokenizer.ggml.model"] == "gpt2"
    assert metadata["tokenizer.ggml.pre"] == "gpt-2"
    assert metadata["tokenizer.ggml.add_bos_token"] is True
    assert metadata["tokenizer.ggml.add_space_prefix"] is False


def test_special_tokens_are_control_tokens(metadata: dict[str, object]) -> None:
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    assert isinstance(tokens, list)
    assert isinstance(types, list)

    special = [token for token, kind in zip(tokens, types, strict=True) if kind == CONTROL]

    assert special == ["<|bos|>", "<|eos|>", "<|user|>", "<|assistant|>"]
    assert metadata["tokenizer.ggml.bos_token_id"] == tokens.index("<|bos|>")
    assert metadata["tokenizer.ggml.eos_token_id"] == tokens.index("<|eos|>")


def test_the_chat_template_uses_tokens_of_the_model(metadata: dict[str, object]) -> None:
    template = metadata["tokenizer.chat_template"]
    assert isinstance(template, str)

    assert "<|user|>" in template
    assert "<|assistant|>" in template
