"""Write story-mini as a folder of transformers, for engines that read no GGUF.

Use: `python story_safetensors.py GGUF FOLDER`, with the packages transformers, gguf and torch.
"""

import sys
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

# A second chat template, which has a place for tools; the first is that of the GGUF.
TOOLS = (
    "{{ bos_token }}{% if tools %}<|user|>You can call: "
    "{% for tool in tools %}{{ tool['function']['name'] }} {% endfor %}"
    "<|assistant|>I can.<|eos|>{% endif %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<|assistant|>{{ message['content'] }}<|eos|>"
    "{% else %}<|user|>{{ message['content'] }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def main() -> None:
    source, folder = Path(sys.argv[1]), sys.argv[2]
    read = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name)
    # A model that was read from a GGUF counts as quantized, and such a model cannot be saved.
    config = read.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(read.state_dict())
    model.generation_config.do_sample = True  # else transformers ignores the temperature
    model.save_pretrained(folder)
    # By the architecture, transformers would read the tokenizer as that of Llama, which splits
    # text in another way; so the tokenizer is saved without a name of its own.
    learned = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=learned.backend_tokenizer,
        bos_token=learned.bos_token,
        eos_token=learned.eos_token,
        pad_token=learned.eos_token,
    )
    tokenizer.chat_template = {"default": learned.chat_template, "tool_use": TOOLS}
    tokenizer.save_pretrained(folder)


main()
