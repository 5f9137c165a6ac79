r"""Text that is safe to show: one rule for the words of callers, engines and files of models.

A control character stands as its escape, such as `\x1b`, so that no text can end a line, forge
another, or take over a terminal. A tab stays as it is.
"""

from __future__ import annotations

import logging
import re
from typing import Any

# Characters at which a reader may end a line: the C0 and C1 controls with DEL, among them CR, LF,
# VT, FF, FS, GS, RS and NEL, and the separators of lines and paragraphs. Then those that turn the
# direction of a text, by which its words are shown in another order (CVE-2021-42574), and lone
# surrogates, which no encoding can carry.
_UNSAFE = re.compile(
    "[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]+"
)

# The part of a URL before its host, up to the last `@` as in `urllib.parse`.
_LOGIN = re.compile(r"(?<=://)[^\s/?#]*@")

# The colours in a line of a log, before and after `printable`.
COLOURS = re.compile(r"(?:\x1b|\\x1b)\[[0-9;:]*m")


def printable(text: str) -> str:
    r"""Return the text with escapes, such as `\n` and `\u2028`, for what is not safe to show."""
    return text if text.isprintable() else _UNSAFE.sub(_escape, text)


def without_passwords(text: str) -> str:
    """Return the text with `***` for the user and the password in any URL."""
    return _LOGIN.sub("***@", text) if "://" in text else text


def printable_json(text: str) -> str:
    r"""Return a text of JSON that says the same without unsafe characters, such as `\u2028`.

    JSON may have some of them as they are, and readers of lines break it there (httpx-sse#34).
    """
    return text if text.isprintable() else _UNSAFE.sub(_json_escape, text)


class Formatter(logging.Formatter):
    """The form of a line of the log. No message can make two lines, or an escape sequence.

    The lines of a traceback are indented, so that the message of an exception cannot forge a line.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(without_passwords(super().formatMessage(record)))

    def formatException(self, exc_info: Any) -> str:
        return _indented(super().formatException(exc_info))

    def formatStack(self, stack_info: str) -> str:
        return _indented(super().formatStack(stack_info))


def _indented(lines: str) -> str:
    return "\n".join(f"  {printable(line)}" for line in without_passwords(lines).split("\n"))


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def _json_escape(found: re.Match[str]) -> str:
    return "".join(f"\\u{ord(character):04x}" for character in found[0])
