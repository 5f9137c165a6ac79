"""Batches: documents of like length side by side, so that little of a batch is padding."""

from collections.abc import Iterator
from itertools import islice
from random import Random

import torch
from tokenizers import Tokenizer
from torch import Tensor

from . import corpus, model, tokenizer

TOKENS_PER_BATCH = 1024
_DOCUMENTS_PER_SORT = 1024
IGNORED = -100


def batches(words: Tokenizer, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of inputs and targets without end, both of shape (documents, length).

    A target of `IGNORED` is padding. Every document starts at position 0, as at inference.
    """
    rng = Random(seed)
    stream = corpus.documents(seed)
    while True:
        drawn = islice(stream, _DOCUMENTS_PER_SORT)
        encoded = [tokenizer.encode(words, document)[: model.CONTEXT + 1] for document in drawn]
        grouped = list(_grouped(sorted(encoded, key=len)))
        rng.shuffle(grouped)
        yield from map(_padded, grouped)


def _grouped(by_length: list[list[int]]) -> Iterator[list[list[int]]]:
    group: list[list[int]] = []
    for document in by_length:
        if group and (len(group) + 1) * len(document) > TOKENS_PER_BATCH:
            yield group
            group = []
        group.append(document)
    yield group


def _padded(group: list[list[int]]) -> tuple[Tensor, Tensor]:
    length = max(map(len, group)) - 1
    inputs = torch.full((len(group), length), tokenizer.EOS_ID)
    targets = torch.full((len(group), length), IGNORED)
    for row, document in enumerate(group):
        inputs[row, : len(document) - 1] = torch.tensor(document[:-1])
        targets[row, : len(document) - 1] = torch.tensor(document[1:])
    return inputs, targets
