"""Checks of a story, as far as a program can make them."""

import re

from . import words

_PRONOUNS = {"she": True, "her": True, "he": False, "him": False, "his": False}


def sentences(story: str) -> list[str]:
    """Split a story into sentences; direct speech and its speaker are one sentence."""
    return re.split(r"(?<=[.?!\"])\s+(?=[A-Z\"])", story.strip())


def keeps_subject(story: str, subject: str) -> bool:
    """Return whether the subject is in the first two sentences and in any five in a row."""
    found = [re.search(rf"\b{re.escape(subject)}\b", part) is not None for part in sentences(story)]
    return any(found[:2]) and all(any(found[at : at + 5]) for at in range(max(1, len(found) - 4)))


def names_introduced(story: str) -> bool | None:
    """Return whether every name is introduced before its use; None without a name."""
    called = set(re.findall(r"\w+", story)) & set(words.NAMES)
    if not called:
        return None
    before = [re.search(rf"(\w*)\W*\b{name}\b", story) for name in called]
    return all(word is not None and word[1] == "named" for word in before)


def pronouns_agree(story: str) -> bool | None:
    """Return whether every pronoun suits the hero, the first name; None without a pronoun."""
    hero = re.search(r"named (\w+)", story)
    used = {_PRONOUNS[word] for word in re.findall(r"\w+", story.lower()) if word in _PRONOUNS}
    if hero is None or hero[1] not in words.NAMES or not used:
        return None
    return used == {hero[1] in words.GIRLS}
