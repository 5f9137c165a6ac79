"""The filter that ends a text before a stop sequence."""

from __future__ import annotations

import random

import pytest

from inference_service.engines.stops import StopFilter


def through(stop: tuple[str, ...], *pieces: str) -> tuple[list[str], str, bool]:
    """Return the texts that pass, the rest, and whether a sequence was met."""
    stops = StopFilter(stop)
    return [stops.feed(piece) for piece in pieces], stops.rest(), stops.hit


@pytest.mark.parametrize(
    ("stop", "pieces", "passed", "rest", "hit"),
    [
        pytest.param((), ["a", "b"], ["a", "b"], "", False, id="no sequence"),
        pytest.param(("END",), ["one ", "two"], ["one ", "two"], "", False, id="not met"),
        pytest.param(("END",), ["oneENDtwo"], ["one"], "", True, id="met within a piece"),
        pytest.param(("END",), ["END"], [""], "", True, id="nothing but the sequence"),
        pytest.param(("END",), ["oneE", "N", "Dtwo"], ["one", "", ""], "", True, id="met in three"),
        pytest.param(("END",), ["oneEN", "ough"], ["one", "ENough"], "", False, id="only alike"),
        pytest.param(("END",), ["oneEN"], ["one"], "EN", False, id="held back to the end"),
        pytest.param(("END",), ["END", "more", "END"], ["", "", ""], "", True, id="then nothing"),
        pytest.param(("aab",), ["aa", "ab"], ["", "a"], "", True, id="begins again in itself"),
        pytest.param(("x", "END"), ["oEN", "x"], ["o", "EN"], "", True, id="another one is met"),
        pytest.param(("b", "c"), ["abc"], ["a"], "", True, id="the first in the text counts"),
        pytest.param(("c", "b"), ["abc"], ["a"], "", True, id="whatever the order in the list"),
        pytest.param(("ab", "b"), ["a", "b"], ["", ""], "", True, id="of two that end, the longer"),
        pytest.param(("🙂🙃",), ["a🙂", "🙃b"], ["a", ""], "", True, id="beyond the first plane"),
        pytest.param(("END",), ["", "E", "", "ND"], ["", "", "", ""], "", True, id="empty pieces"),
    ],
)
def test_a_text_ends_before_its_first_stop_sequence(
    stop: tuple[str, ...], pieces: list[str], passed: list[str], rest: str, hit: bool
) -> None:
    assert through(stop, *pieces) == (passed, rest, hit)


def test_text_that_was_held_back_is_given_once() -> None:
    stops = StopFilter(("END",))
    stops.feed("E")

    assert stops.rest() == "E"
    assert stops.rest() == ""


@pytest.mark.parametrize("pieces", [["abc"], ["ab", "c"], ["a", "bc"], ["a", "b", "c"]])
def test_the_sequence_that_is_complete_first_ends_the_text_however_it_comes(
    pieces: list[str],
) -> None:
    passed, rest, hit = through(("abc", "b"), *pieces)

    assert ("".join(passed) + rest, hit) == ("a", True)


def test_random_texts_in_random_pieces_end_where_a_plain_search_ends_them() -> None:
    chance = random.Random(1)
    for _ in range(5000):
        stop = tuple(word(chance, 1, 4) for _ in range(chance.randint(1, 4)))
        text = word(chance, 0, 20)
        passed, rest, hit = through(stop, *cut(chance, text))

        found = [(text.find(s) + len(s), text.find(s)) for s in stop if s in text]
        end = min(found)[1] if found else len(text)
        assert ("".join(passed) + rest, hit) == (text[:end], bool(found)), (stop, text)


def word(chance: random.Random, shortest: int, longest: int) -> str:
    """Make a word of few letters, so that sequences overlap often."""
    return "".join(chance.choices("abc", k=chance.randint(shortest, longest)))


def cut(chance: random.Random, text: str) -> list[str]:
    cuts = sorted(chance.choices(range(len(text) + 1), k=chance.randint(0, len(text))))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
