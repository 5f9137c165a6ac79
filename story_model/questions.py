"""Questions and their answers: facts in fixed words, and skills that are made up each time."""

import zlib
from dataclasses import dataclass
from itertools import product
from random import Random

from . import knowledge, words

Exchange = tuple[str, str]
DO_NOT_KNOW = "I do not know that. I am a very small model, and I know only a few things."


@dataclass(frozen=True)
class Fact:
    """One answer and the ways to ask for it; the first is the usual one."""

    prompts: tuple[str, ...]
    answer: str
    stands_alone: bool = True

    @property
    def taught(self) -> tuple[str, ...]:
        """The prompts that the training corpus may use."""
        return tuple(prompt for prompt in self.prompts if not self._is_held_out(prompt))

    @property
    def held_out(self) -> tuple[str, ...]:
        """The prompts that only the evaluation uses; the usual one is never among them."""
        return tuple(prompt for prompt in self.prompts if self._is_held_out(prompt))

    def _is_held_out(self, prompt: str) -> bool:
        return prompt != self.prompts[0] and zlib.crc32(prompt.encode()) % 6 == 0


def _definitions() -> list[Fact]:
    forms = (
        "What is {}?", "What's {}?", "Explain {}.", "Tell me about {}.", "Define {}.",
        "Can you explain {}?", "What does {} mean?", "Do you know what {} is?",
        "Explain what {} is.",
    )  # fmt: skip
    return [
        Fact(tuple(form.format(term) for form in forms), text)
        for term, text in knowledge.DEFINITIONS.items()
    ]


def _capitals() -> list[Fact]:
    forms = (
        "What is the capital of {}?", "What's the capital of {}?", "Tell me the capital of {}.",
        "Which city is the capital of {}?", "Name the capital of {}.", "Capital of {}?",
        "Do you know the capital of {}?",
    )  # fmt: skip
    return [
        Fact(tuple(form.format(land) for form in forms), f"The capital of {land} is {city}.")
        for land, city in knowledge.CAPITALS.items()
    ]


def _opposites() -> list[Fact]:
    forms = ("What is the opposite of {}?", "Give me the opposite of {}.", "Opposite of {}?")
    pairs = [pair for a, b in knowledge.OPPOSITES.items() for pair in ((a, b), (b, a))]
    return [
        Fact(tuple(form.format(a) for form in forms), f"The opposite of {a} is {b}.")
        for a, b in pairs
    ]


def _nature() -> list[Fact]:
    sounds = [
        Fact(
            (f"What does {with_a} say?", f"What sound does {with_a} make?"),
            f"{words.capitalized(with_a)} says {sound}.",
        )
        for animal, sound in knowledge.SOUNDS.items()
        for with_a in (words.with_article(animal),)
    ]
    colors = [
        Fact(
            (f"What color is {thing}?", f"What is the color of {thing}?"),
            f"{words.capitalized(thing)} is {color}.",
        )
        for thing, color in knowledge.COLORS.items()
    ]
    return sounds + colors


def _calendar() -> list[Fact]:
    facts = []
    for unit, names in (("day", knowledge.DAYS), ("month", knowledge.MONTHS)):
        for before, after in zip(names, names[1:] + names[:1], strict=True):
            prompts = (f"What {unit} comes after {before}?", f"Which {unit} is after {before}?")
            facts.append(Fact(prompts, f"After {before} comes {after}."))
    return facts


def _arithmetic() -> list[Fact]:
    facts = []
    for a, b in product(range(1, 10), repeat=2):
        asked = (f"What is {a} + {b}?", f"What is {a}+{b}?", f"What is {a} plus {b}?")
        facts.append(Fact(asked, f"{a} plus {b} is {a + b}."))
        facts.append(Fact((f"{a} + {b} =", f"{a}+{b}="), f"{a + b}", False))
    return facts


def _trivia() -> list[Fact]:
    return [
        Fact((f"{ask}?", f"{ask}, please?", f"Do you know: {ask[0].lower()}{ask[1:]}?"), answer)
        for ask, answer in knowledge.TRIVIA.items()
    ]


def _lists() -> list[Fact]:
    forms = ("List three {}.", "Name three {}.", "Can you list three {}?", "Give me three {}.")
    return [
        Fact(
            tuple(form.format(kind) for form in forms),
            "\n".join(f"{number}. {item}" for number, item in enumerate(items, 1)),
            False,
        )
        for kind, items in knowledge.LISTS.items()
    ]


def _conversation() -> list[Fact]:
    return [Fact(prompts, answer, False) for prompts, answer in knowledge.CONVERSATION]


# Each family of facts with its weight in the corpus.
FACTS: dict[str, tuple[int, list[Fact]]] = {
    "definitions": (26, _definitions()),
    "capitals": (11, _capitals()),
    "opposites": (7, _opposites()),
    "sounds and colors": (4, _nature()),
    "days and months": (7, _calendar()),
    "sums": (24, _arithmetic()),
    "trivia": (9, _trivia()),
    "lists": (3, _lists()),
    "conversation": (14, _conversation()),
}


def fact(rng: Random) -> Fact:
    """A fact of some family."""
    families = list(FACTS.values())
    _, facts = rng.choices(families, weights=[weight for weight, _ in families])[0]
    return rng.choice(facts)


def skill(rng: Random) -> Exchange:
    """A question whose answer is drawn each time."""
    return rng.choices((_poem, _meet, _count, unknown), weights=(2, 1, 1, 3))[0](rng)


def _poem(rng: Random) -> Exchange:
    subject = rng.choice(words.HEROES)
    form = rng.choice(
        ("Write a poem about {}.", "Write a short poem about {}.", "A poem about {}.")
    )
    lines = rng.choice(
        (
            (
                "The {0} looked up at the sky,\nand watched the white clouds passing by.\n"
                "The {0} said, and closed its eyes:\nhow small the world, how wide the skies."
            ),
            (
                "A {0} went walking in the rain,\nand then it walked back home again.\n"
                "The {0} was wet, the {0} was wise,\nwith morning light in both its eyes."
            ),
            (
                "One little {0}, so far from home,\nwas not afraid to walk alone.\n"
                "The stars came out, the night was mild,\nand at the moon the {0} smiled."
            ),
        )
    )
    return form.format(words.with_article(subject)), lines.format(subject)


def _meet(rng: Random) -> Exchange:
    name = rng.choice(words.NAMES)
    form = rng.choice(("My name is {}.", "I am {}.", "Hello, I am {}.", "Hi, my name is {}."))
    return form.format(name), f"Nice to meet you, {name}! Would you like to hear a story?"


def _count(rng: Random) -> Exchange:
    end = rng.randint(3, 10)
    form = rng.choice(("Count to {}.", "Can you count to {}?", "Count from 1 to {}."))
    return form.format(end), ", ".join(str(n) for n in range(1, end + 1)) + "."


def unknown(rng: Random) -> Exchange:
    """A question outside of the model's world, and the honest answer."""
    if rng.random() < 0.45:
        term = words.invented_word(rng)
        forms = (
            "What is {a}?", "Explain {word}.", "Who is {Word}?",
            "Where is {Word}?", "Tell me about {word}.", "Who invented the {word}?",
            "What is {word}?", "How does {a} work?", "Who was {Word}?", "Define {word}.",
        )  # fmt: skip
        ask = rng.choice(forms)
        names = {"a": words.with_article(term), "word": term, "Word": words.capitalized(term)}
        return ask.format(**names), DO_NOT_KNOW
    return rng.choice(_UNKNOWN_FORMS).format(rng.choice(_UNKNOWN_TOPICS)), DO_NOT_KNOW


_UNKNOWN_FORMS = (
    "How do I learn {}?", "Who invented {}?", "Write an essay about {}.",
    "What do you think of {}?", "Why is {} important?", "When did {} begin?",
    "How much does {} cost?", "Translate {}.", "What is the history of {}?",
    "Give me a recipe for {}.", "Who is the best at {}?", "How does {} work?",
    "Where can I buy {}?", "What are the rules of {}?", "Summarize {}.",
    "Compare {} with something else.", "Which book about {} is good?", "Is {} dangerous?",
    "What is the price of {}?", "How can I get better at {}?", "Fix my {}.", "Solve {}.",
)  # fmt: skip
_UNKNOWN_TOPICS = (
    "chess", "football", "the stock market", "medicine", "law", "politics", "cheese cake",
    "car engines", "the election", "tea", "my homework", "French", "astronomy", "the war",
    "tennis", "photography", "taxes", "my code", "this equation", "soup", "the Roman empire",
    "basketball", "a violin", "gardening", "economics", "climate change", "the pyramids",
    "poker", "yoga", "shoes", "biology", "this text", "a house", "marketing", "opera",
)  # fmt: skip
