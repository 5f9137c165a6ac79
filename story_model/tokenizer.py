"""The tokenizer: byte-level BPE, split as GPT-2 does, learned from the corpus."""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

BOS, EOS, USER, ASSISTANT = SPECIAL = ("<|bos|>", "<|eos|>", "<|user|>", "<|assistant|>")
BOS_ID, EOS_ID = 0, 1
VOCABULARY_SIZE = 2048


def train(documents: Iterable[list[str]]) -> Tokenizer:
    """Learn the merges; the special tokens get the first identifiers."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (piece for document in documents for piece in document if piece not in SPECIAL)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, document: list[str]) -> list[int]:
    """The token identifiers of a document, piece by piece."""
    return [
        identifier
        for piece in document
        for identifier in tokenizer.encode(piece, add_special_tokens=False).ids
    ]
