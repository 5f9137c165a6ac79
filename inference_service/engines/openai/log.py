"""Progress and causes in the log of a program that nobody knows in advance.

The patterns are those of Python programs with uvicorn, tqdm and huggingface_hub, such as vLLM,
SGLang and transformers, and of llama.cpp. Of other programs the last line has to do.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from inference_service.lifecycle import Phase, Progress
from inference_service.printable import COLOURS

# vLLM's lines begin with the process, then level, date and place, as `(EngineCore pid=7) INFO 11-27
# 23:40:52 [core.py:9] `; llama.cpp's with a clock and the level, as `0.00.012.809 E `.
_PREFIX = re.compile(
    r"^(?:\(\w+ pid=\d+\) ?)?"
    r"(?:(?:DEBUG|INFO|WARNING|ERROR|CRITICAL)[: ]\s*"
    r"(?:\d\d-\d\d \d\d:\d\d:\d\d )?(?:\[[\w./]+:\d+\] ?)?"
    r"|[\d.]+ [DIWE] +)?"
)
_BAR = re.compile(r"^(.*?):? +(\d{1,3})%(?:\|| Completed)")
_WEIGHTS = re.compile(r"\.(?:safetensors|bin|pt|pth|gguf)\b|^(?:Fetching|Downloading)\b")
_LOADING = re.compile(r"^(?:Loading|Starting to load model|load_model: loading model)\b", re.I)
_WARMING = re.compile(r"^(?:Capturing|Graph capturing|Warming up|warming up)\b")
# A line of a level below that of errors, which is no cause of an end.
_REPORT = re.compile(
    r"^(?:[\d.]+ [DIW] |.{0,60}?(?:\b(?:TRACE|DEBUG|INFO|WARN|WARNING)\b"
    r"|\blevel\"?[=:] ?\"?(?:trace|debug|info|warn)))"
)

# The exception of a Python traceback, or argparse's word on an argument.
_RAISED = re.compile(
    r"^(?:(?:\w+\.)*\w*(?:Error|Exception|Interrupt|Exit)(?::|$)|[\w./ -]+: error: argument )"
)
_CONTINUED = re.compile(r"^ +(?!File )\S")
# Lines that programs write at any end, which are never its cause.
_EPILOGUE = re.compile(
    r"^(?:Shutting down|Waiting for|Application shutdown|Finished server process|Started server"
    r"|Application startup|\^|~|Traceback \(most recent|.*resource_tracker: "
    r"|For further information visit |$)"
)


def _text(line: str) -> str:
    """Return a line without colours and prefix; of a bar that is drawn again, what is shown."""
    line = COLOURS.sub("", line).rpartition("\r")[2]
    return line[_PREFIX.match(line).end() :].strip()  # type: ignore[union-attr]


def progress(line: str) -> Progress | None:
    """Return the progress that a line surely reports."""
    text = _text(line)
    if match := _BAR.match(text):
        name, percent = match[1].strip(), min(100, int(match[2]))
        downloads = bool(_WEIGHTS.search(name))
        if not downloads and not _LOADING.match(name):
            return None
        phase = Phase.DOWNLOADING_WEIGHTS if downloads else Phase.LOADING_WEIGHTS
        return Progress(phase, fraction=percent / 100, message=name)
    if _LOADING.match(text):
        return Progress(Phase.LOADING_WEIGHTS, message=text[:200])
    if _WARMING.match(text):
        return Progress(Phase.WARMING_UP, message=text[:200])
    return None


def cause(log: Sequence[str]) -> str:
    """Return the first exception of the log, else the last line that means something.

    A program of several processes ends with the exception of its first process, which says no more
    than that another has failed; that of the other stands before it.
    """
    lines = [line for line in log if not _EPILOGUE.match(_text(line))]
    for number, line in enumerate(lines):
        if _RAISED.match(text := _text(line)):
            more = COLOURS.sub("", lines[number + 1]) if number + 1 < len(lines) else ""
            # The message of some exceptions, such as pydantic's, begins on the next line.
            return f"{text}: {more.strip()}" if _CONTINUED.match(more) else text
    lines = [line for line in lines if not _is_report(line)]
    return _text(lines[-1]) if lines else ""


def _is_report(line: str) -> bool:
    """Return whether a line says what was done: one below the level of errors, or a bar."""
    return bool(_REPORT.match(COLOURS.sub("", line)) or _BAR.match(_text(line)))
