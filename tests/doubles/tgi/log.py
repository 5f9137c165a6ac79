"""The two log shapes that share the launcher's standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

_SEVERITY = {"ERROR": 0, "WARN": 1, "INFO": 2, "DEBUG": 3, "TRACE": 4}
_COLOUR = {"ERROR": 31, "WARN": 33, "INFO": 32}


class Source(NamedTuple):
    """Where a router line comes from; the router prints it with each line."""

    target: str
    filename: str


SERVER = Source("text_generation_router::server", "router/src/server.rs")
INFER = Source("text_generation_router::infer", "router/src/infer/mod.rs")
V3 = Source("text_generation_router_v3", "backends/v3/src/lib.rs")
V3_MAIN = Source("text_generation_router_v3", "backends/v3/src/main.rs")
BACKEND = Source("text_generation_router_v3::backend", "backends/v3/src/backend.rs")
CLIENT = Source("text_generation_router_v3::client", "backends/v3/src/client/mod.rs")
_LAUNCHER = "text_generation_launcher"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class Log:
    """Writes one line per event, at once.

    As text both halves colour their lines even into a pipe: `NO_COLOR` stops the launcher alone,
    and `LOG_COLORIZE=1` stops the router alone.
    """

    def __init__(self, json_output: bool, environ: Mapping[str, str]) -> None:
        self._json = json_output
        self._limit = _SEVERITY.get(environ.get("LOG_LEVEL", "info").upper(), _SEVERITY["INFO"])
        self._launcher_colour = not environ.get("NO_COLOR")
        self._router_colour = environ.get("LOG_COLORIZE") != "1"

    def launcher(
        self, message: str, level: str = "INFO", span: str | None = None, **values: int
    ) -> None:
        """One line of the launcher, or of a Python child whose line it passes on (no span)."""
        if _SEVERITY[level] > self._limit:
            return
        if self._json:
            record: dict[str, object] = {"timestamp": _now(), "level": level}
            record |= {"fields": {"message": message}, "target": _LAUNCHER}
            if span:
                context = {**values, "name": span}
                record |= {"span": context, "spans": [context]}
            self._write(json.dumps(record, ensure_ascii=False, separators=(",", ":")))
            return
        paint = _paint(self._launcher_colour)
        line = f"{paint(2, _now())} {paint(_COLOUR[level], level.rjust(5))} "
        if span:
            line += f"{paint(1, span)}: "
        line += f"{paint(2, _LAUNCHER)}{paint(2, ':')} {message}"
        for name, value in values.items():
            line += f" {paint(2, paint(3, name))}{paint(2, '=')}{value}"
        self._write(line)

    def router(
        self, source: Source, line_number: int, message: str, level: str = "INFO", span: str = ""
    ) -> None:
        """One line of the router: the flattened shape, with file and line."""
        if _SEVERITY[level] > self._limit:
            return
        if self._json:
            record: dict[str, object] = {"timestamp": _now(), "level": level, "message": message}
            record |= {"target": source.target, "filename": source.filename}
            record["line_number"] = line_number
            if span:
                record |= {"span": {"name": span}, "spans": [{"name": span}]}
            self._write(json.dumps(record, ensure_ascii=False, separators=(",", ":")))
            return
        paint = _paint(self._router_colour)
        context = f"{paint(1, span)}{paint(2, ':')} " if span else ""
        place = f"{paint(2, source.filename)}{paint(2, ':')}{paint(2, f'{line_number}:')}"
        self._write(
            f"{paint(2, _now())} {paint(_COLOUR[level], level.rjust(5))} {context}"
            f"{paint(2, source.target)}{paint(2, ':')} {place} {message}"
        )

    def raw(self, line: str) -> None:
        """A line with no shape at all: what the router wrote on its standard error."""
        self._write(line)

    @staticmethod
    def _write(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


class _paint:
    def __init__(self, colour: bool) -> None:
        self._colour = colour

    def __call__(self, code: int, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour else text
