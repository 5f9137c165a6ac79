"""The home folder of the user, who may have none."""

from __future__ import annotations

from pathlib import Path


def home() -> Path:
    """Return the home folder; for a user whom nobody knows `/`, as in a container of Docker."""
    try:
        return Path.home()
    except RuntimeError:
        return Path("/")


def expanded(path: Path | str) -> Path:
    """Return the path with a home folder for `~`, or as it is where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)
