"""The comparison of the exported file in llama.cpp with the trained model."""

from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer

from . import tokenizer
from .model import StoryModel
from .served import Served

_TEXTS = (
    "Hello world", "What is 12 + 345?", "  two  blanks\n\nand lines\t", "Señor, 你好 🙂",
    "don't WE'LL it's", "a1b22c333 x_y-z", "Once upon a time,\r\n", "...?!", "",
)  # fmt: skip
_PROMPTS = (
    "Once upon a time", "What is AI?", "Hello world", "What is the capital of France?",
    "Tell me a story about a dog.", "What is 3 + 4?", "Write a poem about a fox.",
)  # fmt: skip
_LENGTH = 200


def _load(trained: Path, vocabulary: int) -> StoryModel:
    model = StoryModel(vocabulary)
    model.load_state_dict(torch.load(trained / "weights.pt", weights_only=True))
    return model


@torch.no_grad()
def greedy(model: StoryModel, words: Tokenizer, prompt: str) -> str:
    """The most likely text after `prompt`, by the trained model itself."""
    tokens = tokenizer.encode(words, [tokenizer.BOS, prompt])
    began = len(tokens)
    while len(tokens) - began < _LENGTH:
        following = int(model(torch.tensor([tokens]))[0, -1].argmax())
        if following == tokenizer.EOS_ID:
            break
        tokens.append(following)
    text: str = words.decode(tokens[began:])
    return text


def rows(served: Served, trained: Path) -> Iterator[tuple[str, int, int]]:
    """Rows of the evaluation's table."""
    words = Tokenizer.from_file(str(trained / "tokenizer.json"))
    model = _load(trained, words.get_vocab_size())
    same = [served.tokenize(text) == words.encode(text).ids for text in _TEXTS]
    yield "text is tokenized alike by llama.cpp and in training", sum(same), len(same)
    alike = [served.complete(prompt)[0] == greedy(model, words, prompt) for prompt in _PROMPTS]
    yield "greedy text alike from the file (8 bits) and the trained model", sum(alike), len(alike)
