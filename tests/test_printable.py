"""Text that is safe to show."""

from __future__ import annotations

import json
import logging
import sys
import time
import unicodedata

import pytest

from inference_service.errors import ServiceError
from inference_service.printable import (
    COLOURS,
    Formatter,
    printable,
    printable_json,
    without_passwords,
)

EVERY = [chr(number) for number in range(sys.maxunicode + 1)]


def test_a_text_without_control_characters_is_the_same() -> None:
    for text in ("", "größer 日本\tend", "a\u00a0b\u200db \U0001f468\u200d\U0001f469", r"C:\n\x1b"):
        assert printable(text) is text or printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("one\ntwo\rthree", r"one\ntwo\rthree"),
        ("\x1b[2J\x07\0\x7f", r"\x1b[2J\x07\x00\x7f"),
        ("\x85\x9b", r"\x85\x9b"),
        ("a\u2028b\u2029", r"a\u2028b\u2029"),
        ("\u202eforged\u2066", r"\u202eforged\u2066"),
        ("half \ud800", r"half \ud800"),
        ("日本\x1b", r"日本\x1b"),
    ],
)
def test_a_control_character_is_shown_as_its_escape(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown


def test_no_text_can_end_a_line() -> None:
    assert len(printable("".join(EVERY)).splitlines()) == 1


def test_every_control_character_but_a_tab_is_escaped() -> None:
    kinds = ("Cc", "Cs", "Zl", "Zp")
    controls = {c for c in EVERY if unicodedata.category(c) in kinds} - {"\t"}

    assert len(controls) == 64 + 2048 + 2
    assert printable("".join(sorted(controls))).isascii()
    assert printable("\t") == "\t"


def test_json_says_the_same_without_control_characters() -> None:
    text = "".join(EVERY[:0xD800] + EVERY[0xE000:0x11000])
    shown = printable_json(json.dumps({"text": text}, ensure_ascii=False))

    assert json.loads(shown) == {"text": text}
    assert len(shown.splitlines()) == 1
    assert printable(shown) == shown


@pytest.mark.parametrize("line", ["\x1b[1;36m(APIServer pid=7)\x1b[0;0m INFO", "\x1b[38:5:1mred"])
def test_colours_are_known_before_and_after_the_escape(line: str) -> None:
    assert COLOURS.sub("", line) == COLOURS.sub("", printable(line))
    assert "[" not in COLOURS.sub("", line)


def test_a_message_of_the_log_is_one_line() -> None:
    record = logging.makeLogRecord({"msg": "no model %s", "args": ("x\n2026 ERROR forged\x1b[2J",)})

    assert Formatter("%(message)s").format(record) == r"no model x\n2026 ERROR forged\x1b[2J"


def test_an_exception_cannot_forge_a_line_of_the_log() -> None:
    try:
        raise ValueError("x\n2026 ERROR forged\r\x1b[2J")
    except ValueError:
        record = logging.makeLogRecord({"msg": "fault", "exc_info": sys.exc_info()})
    first, *trace = Formatter("%(message)s").format(record).split("\n")

    assert first == "fault"
    assert all(line.startswith("  ") for line in trace)
    assert trace[0] == "  Traceback (most recent call last):"
    assert trace[-1] == r"  2026 ERROR forged\r\x1b[2J"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:pass@hub/x", "http://***@hub/x"),
        ("HTTPS://hf_token@hub", "HTTPS://***@hub"),
        ("http://me:p@ss@word@hub:1/x@y?z=a@b", "http://***@hub:1/x@y?z=a@b"),
        (
            '{"url": "http://:pass@[::1]/"} http://u:p@h',
            '{"url": "http://***@[::1]/"} http://***@h',
        ),
        ("http://hub/@a http://hub?a=b@c http://hub#@ me@hub", None),
        ("git@hub:x :// @ ://@", "git@hub:x :// @ ://***@"),
    ],
)
def test_a_password_in_a_url_is_hidden(text: str, shown: str | None) -> None:
    assert without_passwords(text) == (shown or text)
    record = logging.LogRecord("a", logging.ERROR, "", 0, "%s", (text,), None)
    assert Formatter("%(message)s").format(record) == (shown or text)
    error = ServiceError(text, metadata={"cause": text})
    assert (error.message, error.metadata["cause"]) == (shown or text, shown or text)


def test_the_search_for_passwords_is_linear() -> None:
    begun = time.monotonic()
    without_passwords("://" * 300_000)
    without_passwords("://" + "a" * 1_000_000)
    without_passwords("://a" * 300_000 + "@")
    assert time.monotonic() - begun < 2
