"""Files of TOML, as people and their editors write them."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from inference_service import stored

_LARGEST = 64 << 20  # bytes


class Unusable(ValueError):
    """A file that is not there, or no TOML."""


def read(path: Path) -> dict[str, Any]:
    """Return the tables of a file. Raises Unusable."""
    try:
        data = stored.read(path, _LARGEST)
    except stored.Damaged as error:
        raise Unusable(f"cannot be read: {error}") from None
    if data is None:
        raise Unusable("cannot be read: No such file or directory")
    try:
        return tomllib.loads(_text(data))
    except (ValueError, RecursionError) as error:  # also an integer of 5,000 digits
        raise Unusable(f"is not TOML: {error}") from None


def _text(data: bytes) -> str:
    try:
        # Editors of Windows write a byte order mark, which TOML does not know.
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        what = f"byte {error.start} is not UTF-8; save the file in that encoding"
        raise ValueError(what) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")
