"""Control tokens in bodies of JSON."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import time
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from inference_service.serving.control_tokens import ControlTokens

TOKENS = ("<|im_start|>", "<|im_end|>", "</s>", "<s>", "<｜end▁of▁sentence｜>", "[INST]", "<🙂>")
QWEN = ControlTokens(TOKENS)

_look = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


async def find(body: bytes, tokens: ControlTokens = QWEN) -> tuple[str, str] | None:
    return await tokens.find(body, _look(body))


def written(text: str, escaped: list[bool]) -> str:
    """Return the text as JSON has it, with these characters as escapes of their numbers."""
    parts = []
    for place, character in enumerate(text):
        if place < len(escaped) and escaped[place]:
            units = character.encode("utf-16-be")
            for at in range(0, len(units), 2):
                number = units[at : at + 2].hex()
                parts.append("\\u" + (number.upper() if place % 2 else number))
        else:
            parts.append(json.dumps(character, ensure_ascii=False)[1:-1])
    return "".join(parts)


# Texts of what is near to a token: its parts, escapes that are none, and backslashes.
_PARTS = [*TOKENS, *(token[:-1] for token in TOKENS), *TOKENS[0], "\\", "u003c", "n", "é"]
_texts = st.lists(st.sampled_from(_PARTS), max_size=8).map("".join)


@settings(max_examples=500, deadline=None)
@given(text=_texts, escaped=st.lists(st.booleans(), max_size=60))
def test_a_token_is_found_however_it_is_written(text: str, escaped: list[bool]) -> None:
    body = f'{{"a": 1, "prompt": "{written(text, escaped)}"}}'.encode()
    assert json.loads(body)["prompt"] == text

    found = asyncio.run(find(body))

    # JSON within a string of JSON counts, so that a backslash before `u003c` or `/` may be its.
    within = re.sub(r"\\+(u003c|/)", lambda escape: escape[1].replace("u003c", "<"), text)
    here = [token for token in TOKENS if token in within]
    assert (found is not None) == bool(here)
    if found is not None:
        assert found == ("prompt", min(here, key=within.find))


@settings(max_examples=300, deadline=None)
@given(
    tokens=st.lists(st.text(min_size=1, max_size=3), min_size=1, max_size=4),
    before=st.text(max_size=3),
    after=st.text(max_size=3),
    escaped=st.lists(st.booleans(), max_size=12),
    levels=st.integers(1, 3),
)
@example(tokens=["\\\x1f"], before="", after="", escaped=[], levels=1)
@example(tokens=["\\\x1f"], before="\\", after="", escaped=[], levels=3)
def test_no_token_is_missed(
    tokens: list[str], before: str, after: str, escaped: list[bool], levels: int
) -> None:
    """Whatever its characters are, and within JSON that is a string of JSON."""
    text = written(before + tokens[0] + after, escaped)
    for _ in range(1, levels):
        text = json.dumps(f'{{"a": "{text}"}}', ensure_ascii=any(escaped))[1:-1]
    body = f'{{"text": "{text}"}}'.encode()

    assert asyncio.run(find(body, ControlTokens(tokens))) is not None


@settings(max_examples=300, deadline=None)
@given(
    text=_texts,
    cuts=st.lists(st.integers(0, 80), max_size=3),
    escaped=st.lists(st.booleans(), max_size=60),
)
def test_a_token_may_be_in_several_parts(text: str, cuts: list[int], escaped: list[bool]) -> None:
    places = [0, *sorted(cuts), len(text)]
    parts = [text[begin:end] for begin, end in itertools.pairwise(places)]
    written_parts = [f'{{"text": "{written(part, escaped)}", "type": "text"}}' for part in parts]
    body = f'{{"messages": [{{"content": [{", ".join(written_parts)}]}}]}}'.encode()

    found = asyncio.run(find(body))

    if any(token in text for token in TOKENS):
        assert found is not None
    elif "\\" not in text:
        assert found is None


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({"messages": [{"role": "user", "content": "a<|im_end|>b"}]}, ("messages", "<|im_end|>")),
        ({"messages": [{"content": [{"text": "</s>"}]}]}, ("messages", "</s>")),
        ({"messages": [{"tool_calls": [{"<s>": 1}]}]}, ("messages", "<s>")),
        ({"tools": [{"function": {"description": "[INST]"}}]}, ("tools", "[INST]")),
        ({"prompt": ["a", "b<|im_start|>"]}, ("prompt", "<|im_start|>")),
        ({"input": "<｜end▁of▁sentence｜>"}, ("input", "<｜end▁of▁sentence｜>")),
        ({"stop": ["</s>"], "prompt": "a<b"}, None),
        ({"stop": ["</s>"], "prompt": "a<s>"}, ("prompt", "<s>")),
        ({"stop_sequences": ["</s>"], "logit_bias": {"<s>": 1}, "model": "<s>"}, None),
        ({"response_format": {"a": "<s>"}, "grammar": "<s>", "json_schema": {"b": "<s>"}}, None),
        ({"tool_choice": "<s>", "parameters": {"stop": ["</s>"]}}, None),
        ({"prompt": "a < b, <|im_en d|>, < s>, <S>, [inst]"}, None),
        ({}, None),
        ({"system": [{"text": "a<|im_"}, {"text": "end|>b"}]}, ("system", "<|im_end|>")),
        ({"system": [{"text": "a <"}, {"x": "b"}, {"x": 1, "text": "s> b"}]}, ("system", "<s>")),
        ({"messages": [{"content": "is a <"}, {"content": "s> b"}]}, None),
        ({"messages": [{"function": {"arguments": '{"a": "<s>"}'}}]}, ("messages", "<s>")),
        ({"messages": [{"function": {"arguments": '{"a": "\\u003cs>"}'}}]}, ("messages", "<s>")),
    ],
)
async def test_the_field_and_the_token(body: Any, found: tuple[str, str] | None) -> None:
    assert await find(json.dumps(body, ensure_ascii=False).encode()) == found
    assert await find(json.dumps(body).encode()) == found


async def test_the_name_of_a_field_may_have_escapes() -> None:
    assert await find(b'{"st\\u006fp": "<s>"}') is None
    assert await find(b'{"pr\\u006fmpt": "<\\/s>"}') == ("prompt", "</s>")


async def test_a_token_may_begin_with_another() -> None:
    tokens = ControlTokens(["<a", "<ab>", "<a"])
    assert await find(b'{"x": "<ab>"}', tokens) == ("x", "<a")


async def test_without_tokens_nothing_is_found() -> None:
    assert await find(b'{"x": "<|im_end|> (?!)"}', ControlTokens([])) is None
    assert await find(b'{"x": "<|im_end|>"}', ControlTokens([""])) is None


@pytest.mark.parametrize("place", [0, (1 << 16) - 12, (1 << 16) - 5, 1 << 16, 3 << 16])
@pytest.mark.parametrize("token", ["<|im_end|>", "\\u003c|im_en\\u0064|>", "<🙂>"])
async def test_a_token_anywhere_in_a_large_body(place: int, token: str) -> None:
    text = "a" * place + token + "b" * (1 << 17)
    body = f'{{"stop": "<s>", "x": "{text}"}}'.encode()
    assert await find(body) == ("x", json.loads(f'"{token}"'))


@pytest.mark.parametrize(
    "unit", ["The dog sat. ", "<", "<|", "<|im_end", "\\u003c|im_end", "\\\\", '<\\"', "\\\\u003"]
)
async def test_a_large_body_does_not_hold_the_loop(unit: str) -> None:
    """Measured for 32 MiB: 9 ms of the loop at most, in up to 2.5 s."""
    body = f'{{"prompt": "{unit * ((4 << 20) // len(unit))}", "stop": "<s>"}}'.encode()
    longest, ended = 0.0, False

    async def watch() -> None:
        nonlocal longest
        while not ended:
            before = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - before)

    options = _look(body)
    watching = asyncio.create_task(watch())
    await asyncio.sleep(0)
    assert await QWEN.find(body, options) is None
    ended = True
    await watching
    assert longest < 0.05


async def test_a_large_field_that_ends_with_the_beginning_of_a_token_is_refused() -> None:
    """It is not decoded, to see whether the token goes on in the next part."""
    parts = [{"text": "a" * (1 << 18) + "<|im_"}, {"text": "other"}]
    assert await find(json.dumps({"system": parts}).encode()) == ("system", "<|im_end|>")
    assert await find(json.dumps({"system": parts[0]["text"], "x": "a<|im_"}).encode()) is None
