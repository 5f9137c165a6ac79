"""The mistakes of a catalog, each in one line."""

from __future__ import annotations

import os
import typing
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from inference_service.home import expanded


class Mistake(Exception):
    """A value of a section that cannot be used: its key, and what is wrong."""


def place(key: str, folder: Path, given: Path | str) -> Path:
    """Return the absolute path of what a key names beside the catalog. Raises Mistake."""
    try:
        # The file has this name in UTF-8, whatever the locale makes of its bytes.
        name = os.fsdecode(str(given).encode())
        path = (folder / expanded(name)).resolve()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: links in a circle
        cause = getattr(error, "strerror", None) or error
        raise Mistake(key, f"{str(given)[:200]!r} cannot be used: {cause}") from None
    return path


def explain(path: Path, data: dict[str, Any], file: type[BaseModel], error: Any) -> str:
    """Describe a mistake in one line: file, entry, key, and the allowed values."""
    match error["loc"]:
        case ("models", int(index), *rest):
            entry = data["models"][index]
            name = entry.get("id", "without id") if isinstance(entry, dict) else "not a table"
            where = f"entry {index + 1} ({name!r}), "
            where += f"key {'.'.join(map(str, rest))}: " if rest else ""
        case rest:
            where = f"key {'.'.join(map(str, rest))}: " if rest else ""
    match error["type"]:
        case "extra_forbidden":
            known = _section(file, error["loc"][:-1]).model_fields
            what = f"is not known; known are {', '.join(known)}"
        case "missing":
            what = "is missing"
        case "string_pattern_mismatch":
            what = f"{error['input']!r} does not match {error['ctx']['pattern']}"
        case "value_error":
            what = str(error["ctx"]["error"])
        case _:
            what = f"{error['msg']}, not {error['input']!r}"
    return f"{path}: {where}{what}"


def _section(section: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel]:
    """Return the section at a location below another section."""
    for key in location:
        if isinstance(key, str) and key in section.model_fields:
            section = _within(section.model_fields[key].annotation) or section
    return section


def _within(annotation: Any) -> type[BaseModel] | None:
    """Return the section in a type such as `list[Section]` or `Section | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_within, typing.get_args(annotation))), None)
