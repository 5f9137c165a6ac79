"""The faults and texts that a test orders: for a start by environment, for a request by prompt."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

START_FAULTS = frozenset({"gated", "not_found", "hang_downloading", "cuda_oom", "oom_kill"})
REQUEST_FAULTS = frozenset(
    {
        *("status", "plain", "no_answer", "half_event", "cut_after", "garbage", "bytes"),
        *("error_after", "crash_after", "shard_after", "router_after", "kill_after"),
        *("slow_first", "silent", "unhealthy"),
    }
)
_DIRECTIVE = re.compile(r"\[\[(fault|say|no_eos)(?:[:=](.*?))?\]\]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of a request, with its number: a status, a count of tokens, or seconds."""

    name: str
    value: float = 0

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Read `name` or `name=number`. Raises ValueError for an unknown name."""
        name, _, value = text.strip().partition("=")
        return cls(_known(name, REQUEST_FAULTS), float(value.split()[0]) if value else 0)


@dataclass(frozen=True, slots=True)
class Directives:
    """The orders between double brackets in a prompt.

    After `[[say:text]]` exactly that text comes, and an end-of-sequence token; `[[no_eos]]` is
    never answered with that token.
    """

    fault: Fault | None = None
    say: str | None = None
    no_eos: bool = False


def directives(prompt: str) -> Directives:
    """Read the directives of a prompt. Raises ValueError for an unknown fault."""
    found: dict[str, str] = {match[1]: match[2] or "" for match in _DIRECTIVE.finditer(prompt)}
    return Directives(
        fault=Fault.parse(found["fault"]) if "fault" in found else None,
        say=found.get("say"),
        no_eos="no_eos" in found,
    )


@dataclass(frozen=True)
class Behaviour:
    """The `DOUBLE_*` variables, which the real launcher would ignore."""

    fault: str = ""
    load_seconds: float = 0.3
    download_seconds: float = 0.3
    weight_bytes: int = 3 * 1024 * 1024
    tokens_per_second: float = 500.0
    keepalive_seconds: float = 15.0
    sse_space: bool = True

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Behaviour:
        """Read the variables. Raises ValueError for an unknown fault or a bad number."""

        def number(name: str, default: float) -> float:
            return float(environ.get(f"DOUBLE_{name}", default))

        fault = environ.get("DOUBLE_FAULT", "")
        return cls(
            fault=_known(fault, START_FAULTS) if fault else "",
            load_seconds=number("LOAD_SECONDS", cls.load_seconds),
            download_seconds=number("DOWNLOAD_SECONDS", cls.download_seconds),
            weight_bytes=int(number("WEIGHT_BYTES", cls.weight_bytes)),
            tokens_per_second=number("TOKENS_PER_SECOND", cls.tokens_per_second),
            keepalive_seconds=number("KEEPALIVE_SECONDS", cls.keepalive_seconds),
            sse_space=environ.get("DOUBLE_SSE") != "nospace",
        )


def _known(name: str, names: frozenset[str]) -> str:
    if name not in names:
        raise ValueError(f"no fault is called {name!r}; there are {', '.join(sorted(names))}")
    return name
