"""The end of an engine, in words."""

from __future__ import annotations

import pytest

from inference_service.runtimes.base import Exit


@pytest.mark.parametrize(
    ("exit", "words"),
    [
        (Exit(0), "exited with code 0"),
        (Exit(1), "exited with code 1"),
        (Exit(-9), "exited with code -9, SIGKILL"),
        (Exit(137), "exited with code 137, SIGKILL"),
        (Exit(139), "exited with code 139, SIGSEGV"),
        (Exit(143), "exited with code 143, SIGTERM"),
        (Exit(128), "exited with code 128"),
        (Exit(255), "exited with code 255"),
        (Exit(-200), "exited with code -200"),
        (Exit(None), "ended"),
        (Exit(None, lost=True), "was lost with its machine"),
        (
            Exit(137, oom_killed=True),
            "ran out of its memory limit (exit code 137, SIGKILL; raise `memory` of its entry)",
        ),
    ],
)
def test_an_end_names_its_signal(exit: Exit, words: str) -> None:
    assert str(exit) == words


def test_an_end_names_the_limit_that_was_not_its_own() -> None:
    words = "ran out of memory (exit code -9, SIGKILL; what is full is the limit of x: raise that, "
    assert str(Exit(-9, oom_killed=True, limit="the limit of x")).startswith(words)
