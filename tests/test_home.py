"""The home folder of the user."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from inference_service.home import expanded, home

_NOBODY_KNOWN = 123_456_789
_PRINT = "from inference_service.home import expanded, home; print(home(), expanded('~/a'))"


def test_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")

    assert home() == Path("/home/somebody")
    assert expanded("~/a") == Path("/home/somebody/a")
    assert expanded("~no-such-user/a") == Path("~no-such-user/a")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_user_whom_nobody_knows() -> None:
    code = f"import os; import inference_service.home; os.setuid({_NOBODY_KNOWN}); {_PRINT}"
    environment = {name: text for name, text in os.environ.items() if name != "HOME"}
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )

    assert ran.stdout.split() == ["/", "~/a"]
