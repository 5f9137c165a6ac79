"""Texts that are not Unicode, found in JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from inference_service import malformed

HALF = "\ud83e"  # of a llama


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"prompt": f"My {HALF}"}, "prompt"),
        ({"a": 1, "stop": ["x", HALF]}, "stop[1]"),
        (
            {"messages": [{"content": "x"}, {"content": [{"text": HALF}]}]},
            "messages[1].content[0].text",
        ),
        ({"a": {HALF: 1}}, "a"),
        ({HALF: 1}, "body"),
        (HALF, "body"),
    ],
)
def test_the_field_of_a_cut_text_is_found(value: Any, field: str) -> None:
    escaped = json.dumps(value).encode()

    assert b"\\ud83e" in escaped
    assert malformed.field_in(escaped) == field
    assert malformed.field_in(escaped.replace(b"\\ud83e", b"\xf0\x9f")) == field


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"prompt": "My 🦙"}).encode(),
        '{"prompt": "My 🦙"}'.encode(),
        b'{"prompt": "My \\ud83e',
        b"\xff",
        b"",
        b"[" * 60_000,
        json.dumps({"prompt": HALF, "more": "x" * 70_000}).encode(),
    ],
)
def test_other_bodies_have_none(body: bytes) -> None:
    assert malformed.field_in(body) is None
