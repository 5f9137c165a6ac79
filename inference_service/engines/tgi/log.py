"""Progress and causes in TGI's log. Its lines are hints, and only `/health` is the truth.

Lines are those of `launcher/src/main.rs` at tag v3.3.7. With JSON_OUTPUT two shapes share one
stream: the launcher's `{"fields": {"message": ...}}` and the router's `{"message": ...}`. Fatal
errors come as plain text on the same stream.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from inference_service.lifecycle import Phase, Progress
from inference_service.printable import COLOURS

_TEXT = re.compile(
    r"^\S+Z\s+[A-Z]+\s(.*?)\b(text_generation_\w+(?:::\w+)*): (?:\S+\.rs:\d+: )?(.*)$"
)
_COUNT = re.compile(r"^(?:Download|Convert): \[(\d{1,9})/(\d{1,9})\]")

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

# Lines of a step that went well. An error before them was none, such as that of a download which
# was tried again.
_WELL = ("Successfully downloaded weights", "Connected", "Success")

# Lines of every crash, which are never its cause.
_EPILOGUE = re.compile(
    r"^(Error: \w+$|Shutting down|Terminating|Waiting for|Killing|\w+ (killed|terminated)\b)"
)
_STDERR = re.compile(r"^Shard .* standard error")
_VERDICT = re.compile(r"^(Webserver Crashed|Shard \d+ (crashed|failed|terminated))")
_ROUTER_STDERR = re.compile(r"^(Error: \w+\(|thread '.*' panicked)")

_REFUSAL = re.compile(
    r"^(Request failed during generation|Server error|Input validation error|Model is overloaded"
    r"|Incomplete generation|`\w+`)"
)
# A shard ends after a RuntimeError (`server/text_generation_server/interceptor.py`), and lives on
# after all others.
_BATCH = re.compile(r"^Method (?!Warmup)\w+ encountered an error")
_FATAL = re.compile(_BATCH.pattern + r"(?s:.*)\n[\w.]*(RuntimeError|OutOfMemory)")

_RAISED = re.compile(r"^[\w.]*(Error|Exception)\b.*: ")
_WIDTH = 80  # of the lines of a traceback that is no terminal's
_LONGEST = 500


class _Line(NamedTuple):
    level: str  # empty where the line has no shape of TGI
    text: str
    target: str = ""
    span: str = ""

    @property
    def of_request(self) -> bool:
        """Whether the line reports the failure of a request, after which TGI lives on."""
        if self.level != "ERROR" or "warmup" in self.span:
            return False
        if not self.target.startswith("text_generation_router"):
            return bool(_BATCH.match(self.text))
        return bool(self.span or _REFUSAL.match(self.text))

    @property
    def of_death(self) -> bool:
        """Whether the line reports the end of TGI. Requests can fail after that."""
        return bool(_STDERR.match(self.text) or _VERDICT.match(self.text))


def _parse(line: str) -> _Line:
    """Split a line of any shape."""
    if line.startswith("{"):
        try:
            record = json.loads(line)
            text = str(record.get("message") or record["fields"]["message"])
            span = record.get("span") or {}
            target = str(record.get("target", ""))
            return _Line(record["level"], text, target, str(span.get("name", "")))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return _Line("", line)
    line = COLOURS.sub("", line)
    level = next((word for word in line.split()[1:2]), "")
    match = _TEXT.match(line)
    if match is None:
        return _Line("", line)
    return _Line(level, match[3], match[2], match[1])


def progress(line: str) -> Progress | None:
    """Return the progress that a line reports; None for heartbeats, errors and other lines."""
    level, text, *_ = _parse(line)
    phase = next((phase for start, phase in _PHASES if text.startswith(start)), None)
    if phase is None or level == "ERROR":
        return None
    if match := _COUNT.match(text):
        done, total = int(match[1]), int(match[2])
        return Progress(phase, done, total, "files", done / total if total else None, text)
    return Progress(phase, message=text)


def cause(log: Sequence[str]) -> str:
    """Return what best explains TGI's end: an error, else a line without a level.

    The cause stands after the last request and the last step that went well. An error with a
    traceback explains more than one without. Of several, the first is the cause.
    """
    lines = [line._replace(text=line.text.strip()) for line in map(_parse, log)]
    lines = [line for line in lines if line.text and not _EPILOGUE.match(line.text)]
    return _sentences(_best(lines))


def _best(lines: list[_Line]) -> str:
    death = next((n for n, line in enumerate(lines) if line.of_death), len(lines))
    old = max((n for n, line in enumerate(lines[:death], 1) if _is_old(line)), default=0)
    last = [line for line in lines[old:] if not line.of_request]
    errors = [line.text for line in last if line.level == "ERROR" and not line.of_death]
    outputs = [line.text for line in last if _STDERR.match(line.text)]
    found = (
        *(text for text in errors if "encountered an error" in text or "\n" in text),
        *errors,
        *_fatal(lines[:death]),
        *(text for text in outputs if any(map(_RAISED.match, text.splitlines()))),
        *_router_stderr(line.text for line in last if not line.level),
        *(line.text for line in last if _VERDICT.match(line.text)),
        *(line.text for line in reversed(lines) if not line.level),
    )
    return next(iter(found), "")


def _is_old(line: _Line) -> bool:
    return line.of_request or line.text.startswith(_WELL)


def _fatal(lines: Sequence[_Line]) -> Iterable[str]:
    """Yield the error of the last batch, if the shard has ended by it."""
    for line in reversed(lines):
        if line.text.startswith(_WELL):
            return
        if _FATAL.match(line.text):
            yield line.text


def _router_stderr(lines: Iterable[str]) -> Iterable[str]:
    """Yield the error of the router, or its panic with the message on the next line."""
    lines = iter(lines)
    for line in lines:
        if _ROUTER_STDERR.match(line):
            yield line if line.startswith("Error") else next(lines, line)


def _sentences(text: str) -> str:
    """Return the exception at the end of a traceback with its whole text, else the last line.

    The text is in paragraphs, of which the first and the last are kept: the last one has advice.
    """
    lines = [line.strip() for line in text.splitlines()]
    starts = [number for number, line in enumerate(lines) if _RAISED.match(line)]
    if not starts:
        return next((line for line in reversed(lines) if line), "")
    paragraphs, glue = [""], ""
    for line in lines[starts[-1] :]:
        if line:
            paragraphs[-1] += glue + line
            # A word without an end is one that was too long for its line, such as an address.
            glue = "" if len(line) == _WIDTH and " " not in line else " "
        elif paragraphs[-1]:
            paragraphs.append("")
            glue = ""
    first, last = paragraphs[0], next(p for p in reversed(paragraphs) if p)
    return "; ".join(dict.fromkeys(map(_cut, (first, last))))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
