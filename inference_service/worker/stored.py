"""Files of the cache that anything may have damaged: checked, and set aside where they are bad."""

import os
import stat
import sys
from pathlib import Path

_LARGEST = 1 << 12  # bytes of a branch's commit, or of a record: each takes about 150


def small(path: Path) -> bytes | None:
    """Return the bytes of a small file; None where there is none, or where it was set aside.

    Nothing here waits: a pipe that stands in the file's place is opened without a writer.
    """
    try:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        set_aside(path, str(error.strerror))
        return None
    try:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            set_aside(path, "it is not a file")
        elif len(data := os.read(number, _LARGEST + 1)) > _LARGEST:
            set_aside(path, "it is too large")
        else:
            return data
    finally:
        os.close(number)
    return None


def write(path: Path, text: str) -> None:
    """Write a small file as a whole, or not at all. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    temporary.write_text(text)
    os.replace(temporary, path)


def make_way(path: Path) -> None:
    """Set aside what is not a file where a file is to be: a folder, a pipe, a link to nothing."""
    try:
        if stat.S_ISREG(path.stat().st_mode):
            return
    except FileNotFoundError:
        if not path.is_symlink():
            return
    except OSError:  # a loop of links
        pass
    set_aside(path, "it is not a file")


def set_aside(path: Path, why: str) -> None:
    """Rename a damaged file, or folder, to `*.damaged`, with one warning."""
    aside = path.with_name(f"{path.name}.damaged")
    try:
        os.replace(path, aside)
        outcome = f"it is {aside.name} now"
    except OSError as error:
        outcome = f"it stays: {error.strerror}"
    print(f"{path} is damaged ({why}); {outcome}", file=sys.stderr, flush=True)
