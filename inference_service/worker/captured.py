"""Hear what a C++ library writes to standard error, and still let it through."""

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO


class Captured:
    """The text, complete once the `with` block is left."""

    def __init__(self, file: BinaryIO) -> None:
        self._text = ""
        self._file = file

    def read(self) -> None:
        self._file.seek(0)
        self._text = self._file.read().decode(errors="replace")

    def first_error(self) -> str:
        """Return llama.cpp's first line, without its clock, level and function.

        The lines after it say the same in less detail.
        """
        lines = [line.strip() for line in self._text.splitlines() if line.strip()]
        return re.sub(r"^[\d.]+ E +(\w+: |\w+ +\w+: )?", "", lines[0]) if lines else ""


@contextmanager
def captured_stderr() -> Iterator[Captured]:
    """Copy file descriptor 2 into a `Captured` while the block runs.

    A child process does the copying: the library may hold the interpreter, so no thread of this one
    could, and it may abort, in which case what it said last must already be on its way out.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        captured = Captured(file)
        readable, writable = os.pipe()
        original = os.dup(2)
        child = os.fork()
        if child == 0:
            os.close(writable)
            _copy(readable, original, file.fileno())
        os.close(readable)
        os.dup2(writable, 2)
        os.close(writable)
        try:
            yield captured
        finally:
            os.dup2(original, 2)  # closes the pipe, so the child comes to its end
            os.close(original)
            os.waitpid(child, 0)
            captured.read()


def _copy(source: int, *sinks: int) -> None:
    """Copy until the end of `source`, then end this process."""
    while chunk := os.read(source, 65536):
        for sink in sinks:
            os.write(sink, chunk)
    os._exit(0)
