"""Stories: a cast, a plot, and one sentence per step of the plot."""

import re
from dataclasses import dataclass
from random import Random

from . import words
from .plots import ENDINGS, FEELINGS, LONG_PLOTS, OPENINGS, SHORT_PLOTS, SKILLS, Plot, Step


@dataclass(frozen=True)
class Character:
    """Somebody in a story."""

    name: str
    kind: str
    trait: str

    @property
    def introduction(self) -> str:
        described = f"{self.trait} {self.kind}".strip()
        return f"{words.with_article(described)} named {self.name}"

    @property
    def pronouns(self) -> tuple[str, str]:
        """A hero's "he" and "his"; the name decides them."""
        return ("she", "her") if self.name in words.GIRLS else ("he", "his")


@dataclass
class Request:
    """The requirements on a story; a None is drawn."""

    kind: str | None = None
    name: str | None = None
    friend: str | None = None
    thing: str | None = None
    place: str | None = None
    theme: str | None = None
    short: bool = False


@dataclass
class _Telling:
    """The words of one story. Its hero comes once by name, then twice by kind, and so on."""

    hero: Character
    slots: dict[str, str]
    told: int = 0

    def sentence(self, template: str) -> str:
        return words.capitalized(re.sub(r"\{(\w+)\}", self._fill, template))

    def _fill(self, match: re.Match[str]) -> str:
        slot = match[1]
        if slot != "hero":
            return self.slots[slot]
        self.told += 1
        return self.hero.name if self.told % 3 == 1 else f"the {self.hero.kind}"


def hero(rng: Random, kind: str | None = None, name: str | None = None) -> Character:
    """Return a hero of that kind and name; a None is drawn to suit the other value."""
    if name is None:
        female = kind in words.FEMALE_FOLK or (kind not in words.MALE_FOLK and rng.random() < 0.5)
        name = rng.choice(words.GIRLS if female else words.BOYS)
    if kind is None:
        child = "girl" if name in words.GIRLS else "boy"
        kinds = words.ANIMALS + words.OTHER_FOLK
        kind = child if rng.random() < 0.3 else rng.choice(kinds)
    return Character(name, kind, _trait(rng))


def _trait(rng: Random) -> str:
    return rng.choice(words.TRAITS) if rng.random() < 0.85 else ""


def story(rng: Random, about: Request | None = None) -> str:
    """One story of 6 to 14 sentences, of one paragraph."""
    about = about or Request()
    first = hero(rng, about.kind, about.name)
    friend_kind = about.friend or rng.choice(words.FRIENDS)
    second = Character(rng.choice(words.FRIENDS_NAMES), friend_kind, _trait(rng))
    plot = _plot(rng, about)
    telling = _Telling(first, _slots(rng, about, first, second, plot))
    steps: list[Step] = [OPENINGS, *plot.steps, FEELINGS, ENDINGS]
    sentences = [telling.sentence(rng.choice(step)) for step in steps]
    if rng.random() < 0.25:
        sentences.append("The end.")
    return " ".join(sentences)


def _plot(rng: Random, about: Request) -> Plot:
    plots: tuple[Plot, ...] = SHORT_PLOTS if about.short else LONG_PLOTS + SHORT_PLOTS
    if about.theme:
        plots = tuple(plot for plot in LONG_PLOTS if plot.theme == about.theme)
    if about.thing:
        plots = tuple(plot for plot in LONG_PLOTS if plot.mentions("thing") >= 4)
    if about.place:
        plots = tuple(plot for plot in LONG_PLOTS if plot.mentions("place") >= 2)
    return rng.choice(plots)


def _slots(
    rng: Random, about: Request, first: Character, second: Character, plot: Plot
) -> dict[str, str]:
    thing = about.thing or rng.choice(words.THINGS)
    food = rng.choice(words.FOODS)
    he, his = first.pronouns
    return {
        "friend": second.name,
        "hero_intro": first.introduction,
        "friend_intro": second.introduction,
        "he": he,
        "his": his,
        "thing": thing,
        "a_thing": words.with_article(thing),
        "food": food,
        "a_food": words.with_article(food),
        "place": about.place or rng.choice(words.PLACES),
        "weather": rng.choice(words.WEATHER),
        "sad": rng.choice(words.SAD),
        "glad": rng.choice(words.GLAD),
        "color": rng.choice(words.COLORS),
        "skill": rng.choice(SKILLS),
        "lesson": plot.lesson,
    }


def request(rng: Random) -> tuple[str, Request]:
    """A wish for a story, in words and as data."""
    draw = rng.random()
    kind = rng.choice(words.HEROES)
    if draw < 0.42:
        subject = f"the {kind}" if rng.random() < 0.1 else words.with_article(kind)
        return _worded(rng, subject, Request(kind=kind))
    if draw < 0.52:
        name = rng.choice(words.HEROES_NAMES)
        child = "girl" if name in words.GIRLS else "boy"
        return _worded(rng, name, Request(kind=child, name=name))
    if draw < 0.59:
        name = hero(rng, kind).name
        about = Request(kind=kind, name=name)
        return _worded(rng, f"{words.with_article(kind)} named {name}", about)
    if draw < 0.66:
        friend = rng.choice([animal for animal in words.ANIMALS if animal != kind])
        both = f"{words.with_article(kind)} and {words.with_article(friend)}"
        return _worded(rng, both, Request(kind=kind, friend=friend))
    if draw < 0.74:
        thing = rng.choice(words.THINGS)
        return _worded(rng, words.with_article(thing), Request(thing=thing))
    if draw < 0.79:
        place = rng.choice(words.PLACES)
        return _worded(rng, place, Request(place=place))
    if draw < 0.85:
        theme = rng.choice(LONG_PLOTS).theme
        return _worded(rng, theme, Request(theme=theme))
    return _worded(rng, None, Request())


def _worded(rng: Random, subject: str | None, about: Request) -> tuple[str, Request]:
    ask = rng.choice(
        ("Tell me a{} story", "Tell me a{} story", "Write a{} story", "Can you tell me a{} story",
         "Please tell me a{} story", "I want to hear a{} story", "Write me a{} story", "A{} story")
    )  # fmt: skip
    plain = about.thing is None and about.place is None and about.theme is None
    about.short = plain and rng.random() < 0.25
    wish = ask.format(" short" if about.short else "")
    if subject:
        wish += f" about {subject}"
    return wish + ("?" if ask.startswith("Can") else "."), about
