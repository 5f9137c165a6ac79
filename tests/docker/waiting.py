"""Waiting for a program that tells nobody when it is ready."""

import time
from collections.abc import Callable


def until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Return as soon as the condition holds, or raise `TimeoutError` with what it was about."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} took longer than {seconds:g} s")
        time.sleep(0.02)
