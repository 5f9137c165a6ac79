"""The standard streams of a process, which may be closed, full, or have lost their reader."""

from __future__ import annotations

import io
import logging
import os
import sys
from contextlib import suppress
from typing import TextIO


def prepare() -> None:
    """Open to /dev/null what is closed, and let no character be one that a stream cannot carry.

    Else the next file or socket gets the number of a closed stream, and what writes to that stream
    writes into it.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            _occupy(number)
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as Python does for stderr


def say(text: str, stream: TextIO | None = None) -> None:
    """Write a line, to standard output by default, which the service can do without."""
    with suppress(OSError):
        print(text, file=stream or sys.stdout, flush=True)


def finish() -> None:
    """Give up what the streams do not take, with which Python would fail at its end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)


class Handler(logging.StreamHandler[TextIO]):
    """A handler of log lines that says nothing when its stream takes none.

    Python's own writes a traceback for each line then.
    """

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def _occupy(number: int) -> None:
    """Open /dev/null as this number, unless something has it already."""
    try:
        os.fstat(number)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)
        if null != number:
            os.dup2(null, number)
            os.close(null)
