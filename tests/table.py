"""Tables of texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest


def aligned(*rows: Sequence[str]) -> str:
    """Return rows as lines: the first column begins at the left, the others end at the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([first.ljust(widths[0]), *map(str.rjust, rest, widths[1:])])
        for first, *rest in rows
    )


def write(
    reporter: pytest.TerminalReporter,
    title: str,
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
) -> None:
    """Write the rows, if there are any, as a section; the last column begins at the left."""
    if not (rows := [*rows]):
        return
    reporter.section(title)
    lines = aligned(*(row[:-1] for row in (head, *rows))).splitlines()
    for line, row in zip(lines, (head, *rows), strict=True):
        reporter.write_line(f"{line}  {row[-1]}")
