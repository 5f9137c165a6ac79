"""Tests of the part `chat`: which systems do which work, and in which order."""

from __future__ import annotations

from dataclasses import replace

from benchmarks import chat
from benchmarks.goals import CHAT_GOALS
from benchmarks.proxies import chat as lineup
from benchmarks.proxies import typed
from benchmarks.rounds import BURST, PACED
from benchmarks.systems import Running


def found(engine: Running) -> dict[str, Running]:
    """Return every system of the part as if it ran."""
    return {each.name: replace(engine, system=each) for each in (*lineup(), *typed())}


def test_typed_streams_are_paced_alone(engine: Running) -> None:
    burst = chat._chosen(engine, found(engine), BURST)
    paced = chat._chosen(engine, found(engine), PACED)

    assert {*paced} - {*burst} == {"grpc-floor", "grpc", "rest"}
    assert {*burst} - {*paced} == {"direct"}


def test_no_goal_hangs_on_the_system_that_is_visited_once(engine: Running) -> None:
    for work in (BURST, PACED):
        *_, last = chat._chosen(engine, found(engine), work)

        assert not [goal for goal in CHAT_GOALS if last in (goal.over, *goal.peers, goal.floor)]


def test_a_system_that_is_absent_is_left_out(engine: Running) -> None:
    some = {name: each for name, each in found(engine).items() if name != "nginx"}

    assert "nginx" not in chat._chosen(engine, some, BURST)
