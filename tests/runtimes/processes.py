"""Processes of this machine, those in containers too, found by their environment."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def with_variable(beginning: str) -> list[int]:
    """The processes with a variable that begins so, such as `NAME=`; zombies have none."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it has ended, or belongs to somebody else
            variables = path.read_bytes().split(b"\0")
            if any(variable.startswith(beginning.encode()) for variable in variables):
                found.append(int(path.parent.name))
    return found
