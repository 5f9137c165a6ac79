"""The programs that some tests need. `REQUIRE_ALL=1`, as in CI, fails a test instead of a skip."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def require_program(name: str) -> str:
    """Return the path of a program; without it the running test is skipped, or fails."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if path is None:
        give_up(f"the program {name} is not installed")
    return path


def give_up(reason: str) -> NoReturn:
    """Skip the running test, or fail it where nothing may be skipped."""
    if os.environ.get("REQUIRE_ALL") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
