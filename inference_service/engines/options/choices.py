"""The choice of some tools by their names, in the forms of OpenAI and Anthropic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

AUTO, REQUIRED, NONE = "auto", "required", "none"


@dataclass(frozen=True, slots=True)
class Named:
    """A choice that names tools: one of them must be called, or may be."""

    names: Sequence[str]
    mode: str  # AUTO or REQUIRED
    is_one_call: bool = False

    def __contains__(self, name: str | None) -> bool:
        return name in self.names

    def missing(self, tools: object) -> str | None:
        """Return the first name that no tool has."""
        known = {name_of(tool) for tool in tools} if isinstance(tools, list) else set()
        return next((name for name in self.names if name not in known), None)


def named(choice: object) -> Named | None:
    """Return the choice if it names tools, and None for a word or an unknown form."""
    match choice:
        case {"type": "function", "function": {"name": str(name)}}:
            return Named((name,), REQUIRED, is_one_call=True)
        case {"type": "function" | "tool", "name": str(name)}:
            return Named((name,), REQUIRED, is_one_call=True)
        case {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": list(tools)}}:
            return _allowed(mode, tools)
        case {"type": "allowed_tools", "mode": mode, "tools": list(tools)}:
            return _allowed(mode, tools)
    return None


def name_of(tool: object) -> str | None:
    """Return the name of a tool, in any of the forms."""
    match tool:
        case {"function": {"name": str(name)}} | {"name": str(name)}:
            return name
    return None


def _allowed(mode: object, tools: list[Any]) -> Named | None:
    names = [name for name in map(name_of, tools) if name is not None]
    if mode not in (AUTO, REQUIRED) or not names or len(names) < len(tools):
        return None
    return Named(names, str(mode))
