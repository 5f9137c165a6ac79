"""Tests of the commands: they run, and their memory is measured."""

from __future__ import annotations

import os

import pytest

from benchmarks.command import Memory, request, serving

MB = 10**6


def test_memory_is_that_of_the_process() -> None:
    before = Memory.of(os.getpid())
    held = bytearray(b"x" * 50 * MB)
    after = Memory.of(os.getpid())

    assert after.rss_mb - before.rss_mb == pytest.approx(len(held) / MB, rel=0.2)
    assert after.pss_mb <= after.rss_mb


def test_a_service_answers_by_both_faces_and_writes_a_text() -> None:
    with serving("--runtime=process") as service:
        service.info()
        answer = service.post("/generate", model_id="story-mini", prompt="Once", max_new_tokens=4)

        assert answer["generated_text"]
        assert request(service.engine_port, "GET", "/health") == {"status": "ok"}
        assert 0 < service.cpu_seconds() < 60
