"""The end of a process by signals."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from inference_service import signals

_SIGNALLED = """\
import asyncio, runpy, sys, time
stopping = runpy.run_path(sys.argv[4])["stopping"]

async def main():
    stop, hurry = asyncio.Event(), asyncio.Event()
    limits = map(float, sys.argv[2:4])
    with stopping(lambda _: stop.set(), lambda _: hurry.set(), *limits):
        print("up", flush=True)
        if sys.argv[1] == "hangs":
            time.sleep(3600)
        await stop.wait()
        print("stop", flush=True)
        if sys.argv[1] == "waits":
            await hurry.wait()
            print("hurry", flush=True)

asyncio.run(main())
"""


def _signalled(tmp_path: Path, how: str, grace: str, last: str) -> subprocess.Popen[str]:
    script = tmp_path / "signalled.py"
    script.write_text(_SIGNALLED)
    process = subprocess.Popen(
        [sys.executable, script, how, grace, last, signals.__file__],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_and_a_second_one_hurries(tmp_path: Path, number: signal.Signals) -> None:
    process = _signalled(tmp_path, "waits", "inf", "60")
    assert process.stdout is not None
    process.send_signal(number)
    assert process.stdout.readline() == "stop\n"
    process.send_signal(number)

    assert process.communicate(timeout=20)[0] == "hurry\n"
    assert process.returncode == 0


def test_a_second_signal_ends_a_process_that_hangs(tmp_path: Path) -> None:
    process = _signalled(tmp_path, "hangs", "3600", "0.1")
    process.send_signal(signal.SIGTERM)
    time.sleep(0.1)  # two of the same at once are one
    process.send_signal(signal.SIGTERM)

    _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "time.sleep" in errors or "main" in errors  # where it hung


def test_one_signal_ends_a_process_that_hangs_when_its_time_is_over(tmp_path: Path) -> None:
    process = _signalled(tmp_path, "hangs", "0.1", "0.1")
    process.send_signal(signal.SIGINT)

    process.communicate(timeout=20)
    assert process.returncode == 1
