"""The two log shapes on the launcher's standard output."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import NamedTuple


class Source(NamedTuple):
    """The origin of a line in the router, which prints the origin with each line."""

    target: str
    filename: str


SERVER = Source("text_generation_router::server", "router/src/server.rs")
CLIENT = Source("text_generation_router_v3::client", "backends/v3/src/client/mod.rs")
BACKEND = Source("text_generation_router_v3::backend", "backends/v3/src/backend.rs")
INFER = Source("text_generation_router::infer", "router/src/infer/mod.rs")
V3 = Source("text_generation_router_v3", "backends/v3/src/lib.rs")
V3_MAIN = Source("text_generation_router_v3", "backends/v3/src/main.rs")
_LAUNCHER = "text_generation_launcher"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class Log:
    """The lines of one start, each written at once: JSON, or text without TGI's colours."""

    def __init__(self, json_output: bool) -> None:
        self._json = json_output

    def launcher(
        self, message: str, level: str = "INFO", span: str | None = None, **values: int
    ) -> None:
        """Write a line of the launcher, or (without a span) one of its Python children."""
        if self._json:
            record: dict[str, object] = {"timestamp": _now(), "level": level}
            record |= {"fields": {"message": message}, "target": _LAUNCHER}
            if span:
                context = {**values, "name": span}
                record |= {"span": context, "spans": [context]}
            self.raw(_dumps(record))
            return
        prefix = f"{span}: " if span else ""
        facts = "".join(f" {name}={value}" for name, value in values.items())
        self.raw(f"{_now()} {level:>5} {prefix}{_LAUNCHER}: {message}{facts}")

    def router(
        self, source: Source, line_number: int, message: str, level: str = "INFO", span: str = ""
    ) -> None:
        """Write a line of the router, in the flattened shape with file and line."""
        if self._json:
            record: dict[str, object] = {"timestamp": _now(), "level": level, "message": message}
            record |= {"target": source.target, "filename": source.filename}
            record["line_number"] = line_number
            if span:
                record |= {"span": {"name": span}, "spans": [{"name": span}]}
            self.raw(_dumps(record))
            return
        prefix = f"{span}: " if span else ""
        origin = f"{source.target}: {source.filename}:{line_number}:"
        self.raw(f"{_now()} {level:>5} {prefix}{origin} {message}")

    @staticmethod
    def raw(line: str) -> None:
        """Write a line without a shape, as the router does on standard error."""
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def _dumps(record: dict[str, object]) -> str:
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"))
