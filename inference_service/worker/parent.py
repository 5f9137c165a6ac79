"""Die with the parent: its end closes the pipe that is this process's standard input."""

import fcntl
import os
import select
import signal
import sys


def stop_with_parent() -> None:
    """Have SIGIO sent to this process when standard input ends.

    A signal, and no thread that reads, because no thread runs while llama.cpp loads a model. The
    parent must hold the other end of the pipe (or socket) open, write nothing to it, and let no
    other child inherit it.
    """
    fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([0], [], [], 0)[0]:  # it had ended before the signal was asked for
        signal.raise_signal(signal.SIGIO)
        sys.exit(0)  # where SIGIO is ignored by default
