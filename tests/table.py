"""Tables of texts."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(*rows: Sequence[str]) -> str:
    """Return rows as lines: the first column begins at the left, the others end at the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([first.ljust(widths[0]), *map(str.rjust, rest, widths[1:])])
        for first, *rest in rows
    )
