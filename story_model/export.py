"""Write the trained model as one GGUF file, with its tokenizer and chat template.

Use: `python -m story_model.export TRAINED_FOLDER FILE`
"""

import argparse
import json
from pathlib import Path

import gguf
import numpy as np
import torch

from . import model, tokenizer

# It has no place for a system message: llama.cpp then puts one in front of the user's.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}<|user|>{{ message['content'] }}"
    "{% elif message['role'] == 'assistant' %}<|assistant|>{{ message['content'] }}<|eos|>"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def _write_shape(writer: gguf.GGUFWriter, vocabulary: int) -> None:
    writer.add_name("story-mini")
    writer.add_description("A demonstration model: templated English stories and short answers.")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_vocab_size(vocabulary)
    writer.add_context_length(model.CONTEXT)
    writer.add_embedding_length(model.DIMENSION)
    writer.add_block_count(model.LAYERS)
    writer.add_feed_forward_length(model.FEED_FORWARD)
    writer.add_head_count(model.HEADS)
    writer.add_head_count_kv(model.HEADS)
    writer.add_rope_dimension_count(model.HEAD_DIMENSION)
    writer.add_rope_freq_base(model.ROPE_BASE)
    writer.add_layer_norm_rms_eps(model.NORM_EPSILON)


def _write_tokenizer(writer: gguf.GGUFWriter, path: Path) -> int:
    learned = json.loads(path.read_text())["model"]
    tokens = sorted(learned["vocab"], key=learned["vocab"].__getitem__)
    special = set(tokenizer.SPECIAL)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")  # without it, digits are split in another way
    writer.add_token_list(tokens)
    # A special token that is not marked as control would be split like any other text.
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_token_types([control if token in special else normal for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in learned["merges"]])
    writer.add_bos_token_id(tokenizer.BOS_ID)
    writer.add_eos_token_id(tokenizer.EOS_ID)
    writer.add_pad_token_id(tokenizer.EOS_ID)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)
    return len(tokens)


def _write_weights(writer: gguf.GGUFWriter, path: Path) -> None:
    quantization = gguf.GGMLQuantizationType.Q8_0
    for name, weight in torch.load(path, weights_only=True).items():
        values: np.ndarray = weight.numpy().astype(np.float32)
        if values.ndim == 1:  # llama.cpp wants the norms in full
            writer.add_tensor(name, values)
        else:
            quantized = gguf.quants.quantize(values, quantization)
            writer.add_tensor(name, quantized, raw_dtype=quantization)


def export(trained: Path, target: Path) -> None:
    """Read `tokenizer.json` and `weights.pt` from `trained`, write `target`."""
    writer = gguf.GGUFWriter(target, "llama")
    vocabulary = _write_tokenizer(writer, trained / "tokenizer.json")
    _write_shape(writer, vocabulary)
    _write_weights(writer, trained / "weights.pt")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trained", type=Path)
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    export(arguments.trained, arguments.file)
    print(f"{arguments.file}: {arguments.file.stat().st_size} bytes")


if __name__ == "__main__":
    main()
