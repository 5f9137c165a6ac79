"""Progress and causes in TGI's log. Its lines are hints, and only `/health` is the truth.

Lines are those of `launcher/src/main.rs` at tag v3.3.7. With JSON_OUTPUT two shapes share one
stream: the launcher's `{"fields": {"message": ...}}` and the router's `{"message": ...}`. Fatal
errors come as plain text on the same stream.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from inference_service.lifecycle import Phase, Progress

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_TEXT = re.compile(r"^\S+Z\s+[A-Z]+\s.*?\btext_generation_\w+(?:::\w+)*: (?:\S+\.rs:\d+: )?(.*)$")
_COUNT = re.compile(r"^(?:Download|Convert): \[(\d+)/(\d+)\]")

_PHASES = (
    ("Starting check and download process", Phase.DOWNLOADING_WEIGHTS),
    ("Files are already present", Phase.DOWNLOADING_WEIGHTS),
    ("Download", Phase.DOWNLOADING_WEIGHTS),
    ("Retry", Phase.DOWNLOADING_WEIGHTS),
    ("Convert", Phase.DOWNLOADING_WEIGHTS),
    ("No safetensors weights found", Phase.DOWNLOADING_WEIGHTS),
    ("Successfully downloaded weights", Phase.DOWNLOADING_WEIGHTS),
    ("Starting shard", Phase.LOADING_WEIGHTS),
    ("Shard ready", Phase.LOADING_WEIGHTS),
    ("Starting Webserver", Phase.WARMING_UP),
    ("Warming up model", Phase.WARMING_UP),
    ("Connected", Phase.WARMING_UP),
)

_RAISED = re.compile(r"^[\w.]*(Error|Exception)\b.*: ")

# Lines of every crash, which are never its cause.
_EPILOGUE = re.compile(
    r"^(Error: \w+$|Shutting down|Shard .* standard error|Terminating"
    # Lines of a request that was refused.
    r"|Input validation error|`\w+`)"
)


def message(line: str) -> tuple[str, str]:
    """Split a line of any shape into its level and its message."""
    if line.startswith("{"):
        try:
            record = json.loads(line)
            return record["level"], str(record.get("message") or record["fields"]["message"])
        except (ValueError, KeyError, TypeError):
            return "", line
    line = _ANSI.sub("", line)
    level = next((word for word in line.split()[1:2]), "")
    match = _TEXT.match(line)
    return (level, match[1]) if match else ("", line)


def progress(line: str) -> Progress | None:
    """Return the progress that a line reports; None for heartbeats and other lines."""
    _, text = message(line)
    phase = next((phase for start, phase in _PHASES if text.startswith(start)), None)
    if phase is None:
        return None
    if match := _COUNT.match(text):
        done, total = int(match[1]), int(match[2])
        return Progress(phase, done, total, "files", done / total if total else None, text)
    return Progress(phase, message=text)


def cause(log: Sequence[str]) -> str:
    """Return the message that best explains TGI's end: an error, or else the last one.

    An error with a traceback explains more than one without. Of several, the first is the cause.
    """
    messages = [(level, text.strip()) for level, text in map(message, log) if text.strip()]
    messages = [(level, text) for level, text in messages if not _EPILOGUE.match(text)]
    errors = [text for level, text in messages if level == "ERROR"]
    traced = (text for text in errors if "encountered an error" in text or "\n" in text)
    last = messages[-1][1] if messages else ""
    best = next(traced, errors[0] if errors else last)
    lines = [line.strip() for line in best.splitlines() if line.strip()]
    if not lines:
        return ""
    # A traceback ends with the exception, whose text can have more lines: the last one has advice.
    raised = [line for line in lines if _RAISED.match(line)]
    return "; ".join(dict.fromkeys([*raised[-1:], lines[-1]]))
