"""The training corpus: documents as lists of pieces, made from a seed.

A piece is a special token or a stretch of text that is tokenized by itself. There are two kinds of
document: plain ones, as a raw completion sees them ("What is AI? AI is short for ..."), and
conversations in the chat template's form.
"""

from collections.abc import Iterator
from random import Random

from . import grammar, questions
from .tokenizer import ASSISTANT, BOS, EOS, USER

Document = list[str]
# Other ways in which people lay out a question and its answer in plain text.
_LAYOUTS = (
    ("Question: {}\nAnswer:", " "),
    ("Q: {}\nA:", " "),
    ("User: {}\nAssistant:", " "),
    ("### Instruction:\n{}\n\n### Response:", "\n"),
)
# llama.cpp puts a system message in front of the first user message, with a line break between.
_SYSTEM_MESSAGES = (
    "You are a helpful assistant.",
    "You are a friendly assistant. Answer in one sentence.",
    "Be brief.",
    "You are story-mini.",
    "You tell stories to children.",
)


def documents(seed: int) -> Iterator[Document]:
    """Documents without end."""
    rng = Random(seed)
    while True:
        yield document(rng)


def document(rng: Random) -> Document:
    """One document from BOS to EOS."""
    draw = rng.random()
    if draw < 0.12:
        story = grammar.story(rng)
        return [BOS, story[0].lower() + story[1:] if rng.random() < 0.08 else story, EOS]
    if draw < 0.24:
        return _plain(rng, _wish(rng))
    if draw < 0.29:
        return _chat(rng, [_wish(rng)])
    if draw < 0.70:
        return _plain(rng, _exchange(rng))
    if draw < 0.77:
        return _statement(rng)
    if draw < 0.98:
        return _chat(rng, [_exchange(rng) for _ in range(rng.choice((1, 1, 2, 3)))])
    turns = [_wish(rng) if rng.random() < 0.4 else _exchange(rng) for _ in range(rng.randint(3, 5))]
    return _chat(rng, turns)


def _wish(rng: Random) -> questions.Exchange:
    wish, about = grammar.request(rng)
    return wish, grammar.story(rng, about)


def _exchange(rng: Random) -> questions.Exchange:
    if rng.random() < 0.18:
        return questions.skill(rng)
    fact = questions.fact(rng)
    return rng.choice(fact.taught), fact.answer


def _statement(rng: Random) -> Document:
    fact = questions.fact(rng)
    while not fact.stands_alone:
        fact = questions.fact(rng)
    return [BOS, fact.answer, EOS]


def _plain(rng: Random, exchange: questions.Exchange) -> Document:
    prompt, answer = _casual(rng, exchange[0]), exchange[1]
    if rng.random() < 0.12:
        layout, gap = rng.choice(_LAYOUTS)
        return [BOS, layout.format(prompt) + gap + answer, EOS]
    ends = prompt[-1] in ".?!="
    gap = " " if rng.random() < (0.8 if ends else 0.1) else "\n"
    # A prompt may end with its blank; then the answer begins with a token that has none.
    if rng.random() < 0.12:
        return [BOS, prompt + gap, answer, EOS]
    return [BOS, prompt + gap + answer, EOS]


def _chat(rng: Random, exchanges: list[questions.Exchange]) -> Document:
    pieces = [BOS]
    system = rng.choice(_SYSTEM_MESSAGES) + "\n" if rng.random() < 0.2 else ""
    for prompt, answer in exchanges:
        pieces += [USER, system + _casual(rng, prompt), ASSISTANT, answer, EOS]
        system = ""
    return pieces


def _casual(rng: Random, prompt: str) -> str:
    """The prompt as people type it: some drop the capitals, some the last full stop."""
    if rng.random() < 0.14:
        prompt = prompt.lower()
    if rng.random() < 0.12:
        prompt = prompt.rstrip(".?!") or prompt
    return prompt
