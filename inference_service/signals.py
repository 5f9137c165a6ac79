"""The end by a signal, also of a process that hangs."""

from __future__ import annotations

import asyncio
import faulthandler
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType

_STOPS = (signal.SIGINT, signal.SIGTERM)


def restore() -> None:
    """Take signals as any process does, whatever the one that has started this one did.

    A process inherits which signals are blocked, so that it cannot be ended, and whether SIGCHLD is
    ignored, so that the kernel forgets with what code an engine has exited.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


@contextmanager
def stopping(
    stop: Callable[[int], None], hurry: Callable[[int], None], grace: float, last: float
) -> Generator[None]:
    """Call `stop` in the loop at the first signal, and `hurry` at the second, with its number.

    The process ends `grace` + `last` seconds after the first signal, `last` seconds after the
    second, and at the third one, even if the loop hangs; its threads are then written to standard
    error. This goes on behind the block, for the rest of the end can hang too.
    """
    loop = asyncio.get_running_loop()
    seen = 0

    # asyncio's own handlers run in the loop, and so never where the loop hangs.
    def on_signal(number: int, _: FrameType | None) -> None:
        nonlocal seen
        seen += 1
        loop.call_soon_threadsafe(stop if seen == 1 else hurry, number)
        left = min((grace if seen == 1 else 0) + last, threading.TIMEOUT_MAX)
        faulthandler.dump_traceback_later(left, exit=True)
        if seen > 1:
            signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, on_signal) for number in _STOPS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
