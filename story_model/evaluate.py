"""Measure an exported model through llama.cpp and print a table in Markdown.

Use: `python -m story_model.evaluate FILE TRAINED_FOLDER`
"""

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random

from . import faithful, grammar, judge, questions, words
from .served import Served

_SAMPLED = {"temperature": 0.7, "top_p": 0.95}
_STORIES = 100
_SEED = 987_654
_UNKNOWN = (
    "What is a quaternion?", "How do I cook rice?", "What is the capital of Mongolia?",
    "Who won the game yesterday?", "How do I fix a flat tire?", "What is a sonata?",
    "Who is the president of Atlantis?", "Why is iron heavy?", "Write an essay about trade.",
    "Explain inflation.", "When did the train leave?", "Where can I buy a hammer?",
    "Translate this letter.", "How does a microwave work?", "Solve this riddle.",
)  # fmt: skip
Row = tuple[str, int, int]


def _share(label: str, results: Iterable[bool | None]) -> Row:
    judged = [result for result in results if result is not None]
    return label, sum(judged), len(judged)


def _answers(served: Served, prompt: str, answer: str, **options: object) -> bool:
    text, ended = served.complete(prompt, **options)
    return ended and text.strip() == answer


def facts(served: Served) -> Iterator[Row]:
    """Count the right answers to questions for facts, by family, wording and form."""
    every = [fact for _, family in questions.FACTS.values() for fact in family]
    for name, (_, family) in questions.FACTS.items():
        usual = ((fact.prompts[0], fact.answer) for fact in family)
        yield _share(f"plain question, {name}", (_answers(served, *each) for each in usual))
    yield _share("plain question, all of these, sampled", (
        _answers(served, fact.prompts[0], fact.answer, seed=seed, **_SAMPLED)
        for seed, fact in enumerate(every)
    ))  # fmt: skip
    kept_back = [(prompt, fact.answer) for fact in every for prompt in fact.held_out]
    yield _share("plain question, wording not trained on", (
        _answers(served, *each) for each in kept_back
    ))  # fmt: skip
    yield _share("chat question, usual wording", (
        served.chat(fact.prompts[0]).strip() == fact.answer for fact in every
    ))  # fmt: skip
    yield _share("unknown question, says that it does not know", (
        _answers(served, prompt, questions.DO_NOT_KNOW) for prompt in _UNKNOWN
    ))  # fmt: skip


def subjects(served: Served) -> Iterator[Row]:
    """Count the stories that keep the subject of the request."""
    groups = {"taught subject": words.HEROES, "subject not trained on": words.UNSEEN_HEROES}
    for label, group in groups.items():
        kept = (_keeps_subject(served, noun, seed) for seed, noun in enumerate(group))
        yield _share(f"sampled story keeps its subject, {label}", kept)


def _keeps_subject(served: Served, noun: str, seed: int) -> bool:
    prompt = f"Tell me a story about {words.with_article(noun)}."
    story, _ = served.complete(prompt, seed=seed, **_SAMPLED)
    return judge.keeps_subject(story, noun)


def stories(served: Served) -> Iterator[Row]:
    """Check stories that are sampled with the service's defaults."""
    rng = Random(_SEED)
    prompts = ["Once upon a time"] * _STORIES + [grammar.request(rng)[0] for _ in range(_STORIES)]
    told = [served.complete(prompt, seed=seed, **_SAMPLED) for seed, prompt in enumerate(prompts)]
    texts = [text for text, _ in told]
    yield _share("sampled story ends by itself within 200 tokens", (ended for _, ended in told))
    yield _share("sampled story is told only once", (texts.count(text) == 1 for text in texts))
    yield _share("sampled story introduces everybody", map(judge.names_introduced, texts))
    yield _share("sampled story has the hero's pronouns", map(judge.pronouns_agree, texts))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("trained", type=Path)
    arguments = parser.parse_args()
    served = Served(arguments.file)
    print("| measured | right | of |\n|---|---|---|")
    for rows in (facts(served), subjects(served), stories(served)):
        for label, right, total in rows:
            print(f"| {label} | {right} | {total} |", flush=True)
    for label, right, total in faithful.rows(served, arguments.trained):
        print(f"| {label} | {right} | {total} |")


if __name__ == "__main__":
    main()
