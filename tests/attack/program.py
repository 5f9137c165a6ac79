"""The command `inference-service`, which measures the callbacks of its loop.

At each SIGUSR1 it writes the longest one to standard error, and begins anew. The line is
`longest`, its milliseconds of CPU time, which a busy machine does not add to, and its name.
"""

from __future__ import annotations

import asyncio
import os
import runpy
import signal
import sys
import time
from typing import Any

_run = asyncio.Handle._run


class _Longest:
    seconds = 0.0
    name = ""


def step(handle: asyncio.Handle) -> None:
    """Run a callback, and note how long it took."""
    start = time.thread_time()
    _run(handle)
    if (taken := time.thread_time() - start) > _Longest.seconds:
        task = getattr(handle._callback, "__self__", handle)  # type: ignore[attr-defined]
        _Longest.seconds, _Longest.name = taken, repr(task)[:300]


def report(*_: object) -> None:
    """Write the line."""
    line = f"longest {_Longest.seconds * 1000:.0f} {_Longest.name}\n"
    _Longest.seconds, _Longest.name = 0.0, ""
    os.write(sys.stderr.fileno(), line.encode())


if __name__ == "__main__":
    run: Any = lambda handle: step(handle)  # noqa: E731
    asyncio.Handle._run = run  # type: ignore[method-assign]
    signal.signal(signal.SIGUSR1, report)
    runpy.run_module("inference_service", run_name="__main__")
