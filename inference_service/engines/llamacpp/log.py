"""The log of a worker: its events, which are JSON, and the errors of llama.cpp."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from inference_service.engines.base import Facts
from inference_service.lifecycle import Phase, Progress

# An error of llama.cpp, with the text after its clock, level and function:
# `0.00.012.809 E llama_model_load: error loading model: ...`.
_ERROR = re.compile(r"[\d.]+ E +(?:\w+: |\w+ +\w+: )?(.+)")
_REPORT = re.compile(r"[\d.]+ [DIW] ")  # a line that is no cause of an end

# Reasons of the worker that no retry mends.
_LASTING = (
    *("CONFIGURATION", "MODEL_UNUSABLE", "ENGINE_UNUSABLE", "NO_AVX2", "NO_OPENMP"),
    *("GATED", "REPO_NOT_FOUND", "REVISION_NOT_FOUND", "FILE_NOT_FOUND", "WRONG_FILE"),
)
_ABORT = re.compile(r"GGML_(?:ASSERT\(.*\) failed|ABORT)")
_MEMORY = re.compile(r"alloc|mem|buf", re.IGNORECASE)


def progress(line: str) -> Progress | None:
    """Return the progress that a line reports. Lines of the worker are JSON, others are not."""
    match _object(line):
        case {
            "event": "downloading",
            "file": str(file),
            "completed_bytes": int(done),
            "total_bytes": int(total),
        } if 0 <= done < 1 << 63 and 0 <= total < 1 << 63:
            fraction = min(1.0, done / total) if total else None
            phase, message = Phase.DOWNLOADING_WEIGHTS, f"downloading {file}"
            return Progress(phase, done, total, "bytes", fraction, message)
        case {"event": "asking", "file": str(file)}:
            return Progress(Phase.DOWNLOADING_WEIGHTS, message=f"asking the hub for {file}")
        case {"event": "verifying"}:
            return Progress(Phase.DOWNLOADING_WEIGHTS, message="checking the file's sha256")
        case {"event": "loading"}:
            return Progress(Phase.LOADING_WEIGHTS)
        case {"event": "failed", "phase": "downloading"}:
            return Progress(Phase.DOWNLOADING_WEIGHTS, message="the download has failed")
    return None


def port(line: str) -> int | None:
    """Return the port at which the worker listens, which it says once."""
    match _object(line):
        case {"event": "serving", "port": int(port)}:
            return port
    return None


def cause(log: Sequence[str]) -> str:
    """Return the worker's message, else the last line of llama.cpp that is no report.

    For a model that llama.cpp could not load, name llama.cpp's first error instead: its later
    lines repeat that error in less detail. Docker may list the worker's events, which are on
    standard output, before or after those lines, which are on standard error.
    """
    file, reason, message = "the model", "", ""
    plain: list[str] = []
    for line in log:
        match _object(line):
            case {"event": "loading", "file": str(path)}:
                file = path
            case {"event": "failed", "reason": str(reason), "message": str(message)}:
                pass
            case None if line.strip() and not _REPORT.match(line):
                plain.append(line)
    errors = (match[1] for line in plain if (match := _ERROR.match(line)))
    if reason == "MODEL_UNUSABLE" and (error := next(errors, "")):
        return f"llama.cpp could not load {file}: {error}."
    return message or (plain[-1] if plain else "")


def is_lasting(log: Sequence[str]) -> bool:
    """Return whether the worker has ended, before it served, for a reason that no retry mends.

    llama.cpp has one error for a bad file and for too little memory, which differ in its log. At
    some files it aborts, and then does so each time.
    """
    reason = ""
    for line in log:
        match _object(line):
            case {"event": "failed", "reason": str(reason)}:
                pass
    errors = [line for line in log if _ERROR.match(line) or _ABORT.search(line)]
    if any(map(_MEMORY.search, errors)):
        return False
    return reason in _LASTING or (not reason and any(map(_ABORT.search, errors)))


def facts(log: Sequence[str]) -> Facts | None:
    """Return what the worker has said of the model as it began to serve."""
    for line in log:
        match _object(line):
            case {"event": "serving", **said}:
                return _facts(said)
    return None


def _facts(said: Mapping[Any, Any]) -> Facts:
    longest, tokens = said.get("longest_token"), said.get("control_tokens")
    template, tools = said.get("chat_template"), said.get("takes_tools")
    return Facts(
        longest if isinstance(longest, int) and longest >= 0 else None,
        tuple(t for t in tokens if isinstance(t, str)) if isinstance(tokens, list) else None,
        template if isinstance(template, bool) else None,
        tools if isinstance(tools, bool) else None,
    )


def _object(line: str) -> object:
    if not line.startswith("{"):
        return None
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
