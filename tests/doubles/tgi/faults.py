"""What a test may ask this double to do wrong: at start by environment, later by the prompt."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

START_FAULTS = frozenset(
    {
        *("gated", "unknown_repo", "no_network", "hang_downloading", "hang_loading"),
        *("unsupported_arch", "cuda_oom", "oom_kill", "warmup_oom", "port_busy", "crash_after"),
    }
)
REQUEST_FAULTS = frozenset(
    {
        *("status", "plain", "no_answer", "half_event", "cut_after", "garbage", "bytes"),
        *("error_after", "crash_after", "kill_after", "slow_first", "silent", "unhealthy"),
    }
)
_DIRECTIVE = re.compile(r"\[\[(fault|say|eos_after|no_eos)(?:[:=](.*?))?\]\]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault and its number: a status, a count of tokens or requests, or seconds."""

    name: str
    value: float = 0

    @classmethod
    def parse(cls, text: str, known: frozenset[str]) -> Fault:
        """Read `name` or `name=number`; a bare number stands for that status."""
        name, _, value = text.strip().partition("=")
        if name.isdigit():
            name, value = "status", name
        if name not in known:
            raise ValueError(f"no fault is called {name!r}; there are {', '.join(sorted(known))}")
        return cls(name, float(value.split()[0]) if value else 0)


@dataclass(frozen=True, slots=True)
class Directives:
    """What a prompt says between double brackets.

    `[[say:text]]` is answered with exactly that text and an end-of-sequence token;
    `[[eos_after=N]]` makes the Nth token that one, and `[[no_eos]]` never sends it.
    """

    fault: Fault | None = None
    say: str | None = None
    eos_after: int | None = None
    no_eos: bool = False


def directives(prompt: str) -> Directives:
    """Read the directives of a prompt. Raises ValueError when a fault is not known."""
    found: dict[str, str] = {match[1]: match[2] or "" for match in _DIRECTIVE.finditer(prompt)}
    return Directives(
        fault=Fault.parse(found["fault"], REQUEST_FAULTS) if "fault" in found else None,
        say=found.get("say"),
        eos_after=int(found["eos_after"]) if "eos_after" in found else None,
        no_eos="no_eos" in found,
    )


@dataclass(frozen=True)
class Behaviour:
    """How this double behaves: `DOUBLE_*` variables, which the real launcher would ignore."""

    fault: Fault | None = None
    load_seconds: float = 0.3
    download_seconds: float = 0.3
    weight_bytes: int = 3 * 1024 * 1024
    weight_files: int = 2
    tokens_per_second: float = 500.0
    keepalive_seconds: float = 15.0
    heartbeat_seconds: float = 10.0
    sse_space: bool = True

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Behaviour:
        """Read the variables. Raises ValueError, so that a test's own mistake is not a fault."""

        def number(name: str, default: float) -> float:
            return float(environ.get(f"DOUBLE_{name}", default))

        fault = environ.get("DOUBLE_FAULT")
        return cls(
            fault=Fault.parse(fault, START_FAULTS) if fault else None,
            load_seconds=number("LOAD_SECONDS", cls.load_seconds),
            download_seconds=number("DOWNLOAD_SECONDS", cls.download_seconds),
            weight_bytes=int(number("WEIGHT_BYTES", cls.weight_bytes)),
            weight_files=int(number("WEIGHT_FILES", cls.weight_files)),
            tokens_per_second=number("TOKENS_PER_SECOND", cls.tokens_per_second),
            keepalive_seconds=number("KEEPALIVE_SECONDS", cls.keepalive_seconds),
            heartbeat_seconds=number("HEARTBEAT_SECONDS", cls.heartbeat_seconds),
            sse_space=environ.get("DOUBLE_SSE") != "nospace",
        )
