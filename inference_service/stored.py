"""Files that the service has kept, which anything may have damaged since."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

log = logging.getLogger(__name__)


class Damaged(ValueError):
    """A file that is not what the service wrote."""


def read(path: Path, limit: int) -> bytes | None:
    """Return the bytes of a file, or None where there is none. Raises Damaged.

    Nothing here waits: a pipe that stands in the file's place is opened without a writer.
    """
    try:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Damaged(error.strerror) from None
    try:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise Damaged("it is not a file")
        with open(number, "rb", closefd=False) as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise Damaged(error.strerror) from None
    finally:
        os.close(number)
    if len(data) > limit:
        raise Damaged(f"it has more than {limit} bytes")
    return data


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file as a whole, or not at all. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    temporary.unlink(missing_ok=True)
    number = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with open(number, "w", encoding="utf-8") as file:
        file.write(text)
    temporary.replace(path)


def set_aside(path: Path, why: object) -> None:
    """Rename a damaged file, or folder, to `*.damaged`, with one warning."""
    aside = path.with_name(f"{path.name}.damaged")
    try:
        path.replace(aside)
        outcome = f"it is {aside.name} now"
    except OSError as error:
        outcome = f"it stays: {error.strerror}"
    log.warning("%s is not what this service wrote, and is begun anew: %s; %s", path, why, outcome)
