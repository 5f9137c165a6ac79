"""Tests of the tokens/s of llama.cpp: each face gets the same requests."""

from __future__ import annotations

import time

import pytest

from benchmarks import embedded
from benchmarks.command import serving
from benchmarks.embedded import Ask

FACES = ["direct", "grpc", "rest", "control"]


async def test_each_face_writes_the_same_texts() -> None:
    with serving("--runtime=process") as command:
        async with embedded.asking(command) as faces:
            tokens = {name: [await ask(seed) for seed in (1, 2, 3)] for name, ask in faces.items()}

    assert tokens == dict.fromkeys(FACES, tokens["direct"])
    assert len({*tokens["direct"]}) > 1, "the seed does not change the text"


async def test_the_loss_is_measured_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now, seeds = 0.0, dict[str, list[int]]()
    monkeypatch.setattr(time, "perf_counter", lambda: now)

    def face(name: str, tokens: int) -> Ask:
        async def ask(seed: int) -> int:
            """Take a second."""
            nonlocal now
            now += 1
            seeds.setdefault(name, []).append(seed)
            return tokens

        return ask

    makes = {"direct": 100, "grpc": 50, "rest": 95, "control": 100}
    faces = {name: face(name, tokens) for name, tokens in makes.items()}
    found = await embedded._compared(faces, callers=1, rounds=2, seconds=2)

    assert found == {
        "tokens/s": {name: [tokens, tokens] for name, tokens in makes.items()},
        "of direct": {"grpc": [0.5] * 3, "rest": [0.95] * 3, "control": [1.0] * 3},
        "goal": {"grpc": "missed", "rest": "met"},
        "noise": 1.0,
    }
    assert seeds["direct"] == [0, 1] * 3, "it is last in one round, which visits it once"
    assert seeds["grpc"] == [0, 1] * 4


def test_the_part_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "CALLERS", (1, 2))

    found = embedded.measure(rounds=1, seconds=0.05)

    assert [*found] == ["1 callers", "2 callers"]
    for figures in found.values():
        assert [*figures["tokens/s"]] == FACES
        assert all(speed > 0 for [speed] in figures["tokens/s"].values())
        assert figures["goal"].keys() == embedded.GOALS.keys()
