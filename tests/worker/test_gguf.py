"""What a worker reads of a GGUF file."""

import struct
import time
from pathlib import Path

import pytest

from inference_service.worker import gguf
from inference_service.worker.failure import WorkerError

from .bert import bert
from .conftest import STORY
from .gguf import array, tokens

BYTES = [token.decode() for token in gguf._BYTES]


def longest(tmp_path: Path, content: bytes) -> int:
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    return gguf.read(file).longest_token


def test_the_story_model() -> None:
    tokens = ("<|assistant|>", "<|bos|>", "<|eos|>", "<|user|>")
    assert gguf.read(STORY) == gguf.Header(512, 14, tokens, has_template=True)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last", None])
@pytest.mark.parametrize("head", [True, False])
def test_an_encoder(tmp_path: Path, pooling: str | None, head: bool) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(bert(pooling, head=head))
    header = gguf.read(file)
    assert header.control_tokens == ("[CLS]", "[MASK]", "[PAD]", "[SEP]")
    assert (header.pooling, header.ranks) == (pooling, head)
    assert (header.causal, header.has_template) == (False, False)


def test_the_longest_token_is_counted_in_bytes(tmp_path: Path) -> None:
    assert longest(tmp_path, tokens("llama", "a", "▁the", "é")) == 6
    assert longest(tmp_path, tokens("gpt2", *BYTES, "Ġinstructions")) == 14


@pytest.mark.parametrize("kind", ["t5", "bert", "gemma4", "none"])
def test_a_tokenizer_that_can_drop_text_has_no_bound(tmp_path: Path, kind: str) -> None:
    assert longest(tmp_path, tokens(kind, *BYTES, "long")) == 0


def test_bytes_without_a_token_are_dropped_and_so_there_is_no_bound(tmp_path: Path) -> None:
    assert longest(tmp_path, tokens("gpt2", *BYTES[1:], "long")) == 0


def test_special_tokens_of_phi_3_take_white_space_and_so_there_is_no_bound(tmp_path: Path) -> None:
    assert longest(tmp_path, tokens("llama", "<|end|>", name="Phi-3 mini")) == 0


def test_a_file_without_tokens_has_no_bound(tmp_path: Path) -> None:
    assert longest(tmp_path, tokens("llama")) == 0


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(array("x", 8, 1 << 40, bytes(1 << 26)), id="strings without end"),
        pytest.param(array("x", 9, 1 << 22, struct.pack("<IQ", 9, 1) * 4000000), id="arrays"),
        pytest.param(array("x", 4, 1) * 1, id="a number too few"),
    ],
)
def test_a_hostile_header_costs_little_time(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "bad.gguf"
    file.write_bytes(content)
    begun = time.process_time()
    with pytest.raises(WorkerError, match="is damaged"):
        gguf.read(file)
    assert time.process_time() - begun < 1
