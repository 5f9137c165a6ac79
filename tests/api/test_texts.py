"""The text of a large body has a limit; images and lists of texts have none of their own."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from inference_service.api.texts import LARGEST, refuse_large_text
from inference_service.errors import RequestTooLarge

LARGE = "a" * (LARGEST + 1)


def refuse(**fields: Any) -> None:
    body = json.dumps(fields).encode()
    refuse_large_text(body, msgspec.json.decode(body, type=dict[str, msgspec.Raw]))


def user(content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": LARGE},
        {"input": LARGE},
        {"input": [LARGE, "a"]},
        {"system": LARGE},
        {"tools": [{"description": LARGE}]},
        user(LARGE),
        user([{"type": "text", "text": LARGE}]),
        user([{"type": "tool_result", "content": [{"type": "text", "text": LARGE}]}]),
        user([{"type": "tool_result", "content": LARGE}]),
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": LARGE}}]}]},
        {"messages": LARGE},
        {"messages": [LARGE]},
        {"messages": [7, LARGE]},
    ],
)
def test_texts_that_are_too_large(fields: dict[str, Any]) -> None:
    with pytest.raises(RequestTooLarge, match=rf"{next(iter(fields))} has \d+ bytes of text"):
        refuse(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "a" * (LARGEST - 2)},
        {"input": ["a" * (LARGEST - 9)] * 3},
        {"input": [[1, 2, 3] * 200_000] * 3},
        user([{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{LARGE}"}}]),
        user([{"type": "input_image", "image_url": f"data:image/png;base64,{LARGE}"}]),
        user([{"type": "image", "source": {"type": "base64", "data": LARGE}}] * 3),
        user([{"type": "input_audio", "input_audio": {"data": LARGE, "format": "wav"}}]),
        user([{"type": "file", "file": {"file_data": LARGE}}]),
        user([{"type": "tool_result", "content": [{"source": {"data": LARGE}}]}]),
    ],
)
def test_what_may_be_large(fields: dict[str, Any]) -> None:
    refuse(**fields)


def test_many_parts_are_not_looked_at() -> None:
    parts = [{"source": {"data": "a" * 500}}] * 10_000
    with pytest.raises(RequestTooLarge, match="messages has"):
        refuse(**user(parts))
    with pytest.raises(RequestTooLarge, match="tokens has"):
        refuse(tokens=[12345678] * 500_000)
