"""The end of the worker at the end of its parent.

The parent's end closes the pipe that is this process's standard input.
"""

import fcntl
import os
import select
import signal
import sys


def stop_with_parent() -> None:
    """Request SIGIO for the moment when standard input ends.

    A signal and not a thread that reads, because no thread of Python runs while llama.cpp loads a
    model. The parent must hold the other end of the pipe (or socket) open, write nothing to it, and
    let no other child inherit it.
    """
    fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([0], [], [], 0)[0]:  # the input had ended before this request
        signal.raise_signal(signal.SIGIO)
        sys.exit(0)  # where SIGIO is ignored by default
