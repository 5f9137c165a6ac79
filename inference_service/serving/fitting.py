"""Prompts that cannot fit the context, by their bytes.

An engine reads a whole prompt before it counts the tokens, at a cost of its own: llama.cpp takes
280 MB and 4.5 s for one of 4 MiB, in whatever context. So what surely cannot fit is refused before
it has a slot.
"""

from __future__ import annotations

from inference_service.catalog import ModelSpec
from inference_service.errors import PromptTooLong

# The bytes of the longest token where the engine does not tell. Those of most vocabularies have up
# to 128; some have runs of one character that are longer (gpt-neox: 512).
LONGEST_TOKEN = 256


def refuse_what_cannot_fit(text: str, spec: ModelSpec, longest_token: int | None) -> None:
    """Raise PromptTooLong for a prompt of more bytes than the tokens of a context can have.

    A text of n bytes has at least n / `longest_token` tokens, unless its tokenizer drops a part of
    it: then `longest_token` is 0, and nothing is refused. Where it is None the tokenizer is not
    known, and can be one that drops white space, or makes one of several (those of T5 and BERT):
    then white space counts once.
    """
    if longest_token == 0:
        return
    context = spec.context_length
    room = context * (longest_token or LONGEST_TOKEN)
    if 4 * len(text) <= room or (size := len(text.encode())) <= room:
        return
    if longest_token is None and len(" ".join(text.split()).encode()) <= room:
        return
    detail = f"it has {size} bytes, and {context} tokens have at most {room}"
    raise PromptTooLong(spec.id, context, detail)
