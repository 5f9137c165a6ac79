"""Visits: what a wrong answer means."""

from __future__ import annotations

import os

import pytest

from benchmarks import rounds
from benchmarks.load import Reading, Work, WrongAnswer
from benchmarks.systems import Running, System

READING = Reading(1.0, 1, 16, 0, 0, 0, 0, 0, 0)


def running(name: str) -> Running:
    return Running(System(name, "tgi", "", lambda *_: []), os.getpid(), 0)


class Load:
    """Finds as many answers wrong as it is told, and then a right one."""

    def __init__(self, wrong: int) -> None:
        self.wrong = wrong

    def __call__(self, running: Running, work: Work, requests: int) -> Reading:
        if self.wrong:
            self.wrong -= 1
            raise WrongAnswer("the system hung up")
        return READING


@pytest.mark.parametrize(("name", "wrong"), [("litellm", 2), ("grpc", 0)])
def test_a_peer_may_answer_wrongly_twice(
    monkeypatch: pytest.MonkeyPatch, name: str, wrong: int
) -> None:
    monkeypatch.setattr(rounds, "ask", Load(wrong))

    reading, cpu = rounds._visit(running(name), rounds.UNARY, 1)

    assert reading is READING
    assert cpu >= 0


@pytest.mark.parametrize(("name", "wrong"), [("litellm", 3), ("grpc", 1), ("rest", 1)])
def test_more_than_that_ends_the_run_and_of_ours_any(
    monkeypatch: pytest.MonkeyPatch, name: str, wrong: int
) -> None:
    monkeypatch.setattr(rounds, "ask", Load(wrong))

    with pytest.raises(WrongAnswer):
        rounds._visit(running(name), rounds.UNARY, 1)
