"""Events are passed on whole, wherever the bytes of their stream are cut."""

from __future__ import annotations

import random

import pytest

from rest_bridge.dialects.events import _LARGEST, Events

STREAM = (
    b'data: {"text": "One"}\n\n: a comment\n\nevent: x\ndata: {"text": "\xf0\x9f\xa6\x99 two"}\n\n'
    b"data: [DONE]\n\n"
)


def fed(parts: list[bytes]) -> tuple[list[bytes], bytes]:
    """Return what is passed on of each part, and the rest."""
    events = Events()
    passed = [events.feed(part) for part in parts]
    assert events.between
    return passed, events.rest()


@pytest.mark.parametrize("stream", [STREAM, STREAM.replace(b"\n", b"\r\n")])
def test_a_cut_at_every_byte_leaves_events_whole(stream: bytes) -> None:
    for at in range(1, len(stream)):
        passed, rest = fed([stream[:at], stream[at:]])
        assert b"".join(passed) + rest == stream
        assert rest == b""
        assert all(not part or part.endswith((b"\n\n", b"\r\n\r\n")) for part in passed)


def test_any_cuts_leave_events_whole() -> None:
    chance = random.Random(7)
    for _ in range(300):
        cuts = sorted(chance.choices(range(len(STREAM)), k=chance.randrange(12)))
        ends = [*cuts, len(STREAM)]
        parts = [STREAM[a:b] for a, b in zip([0, *cuts], ends, strict=True)]
        passed, rest = fed(parts)
        assert b"".join(passed) + rest == STREAM
        assert all(not part or part.endswith(b"\n\n") for part in passed)


def test_an_event_without_its_end_is_the_rest() -> None:
    assert fed([STREAM, b"data: half"]) == ([STREAM, b""], b"data: half")


def test_an_event_that_is_too_large_is_passed_on_in_parts() -> None:
    events = Events()
    large = b"data: " + b"a" * _LARGEST
    assert events.feed(large) == large
    assert not events.between
    assert events.feed(b"aaa") == b""
    assert events.feed(b"\n\ndata: half") == b"aaa\n\n"
    assert events.between
