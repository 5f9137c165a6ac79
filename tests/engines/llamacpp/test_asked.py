"""The choice of tools by their names, as llama.cpp gets it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from inference_service.engines.exchange import Request
from inference_service.engines.llamacpp.asked import chosen

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"

look = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def asked(path: str, **body: Any) -> Request:
    data = json.dumps({"model": "m", "seed": 12345678901234567890, **body}).encode()
    return Request("POST", path, data, "application/json", "", look(data))


def function(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}


def flat(name: str) -> dict[str, Any]:
    return {"type": "function", "name": name, "parameters": {"type": "object"}}


def of_anthropic(name: str) -> dict[str, Any]:
    return {"name": name, "input_schema": {"type": "object"}}


CHOICES: list[tuple[str, list[dict[str, Any]], Any, dict[str, Any]]] = [
    (
        CHAT,
        [function("a"), function("b")],
        {"type": "function", "function": {"name": "b"}},
        {"tools": [function("b")], "tool_choice": "required", "parallel_tool_calls": False},
    ),
    (
        RESPONSES,
        [flat("a"), flat("b")],
        {"type": "function", "name": "a"},
        {"tools": [flat("a")], "tool_choice": "required", "parallel_tool_calls": False},
    ),
    (
        MESSAGES,
        [of_anthropic("a"), of_anthropic("b")],
        {"type": "tool", "name": "b", "disable_parallel_tool_use": True},
        {
            "tools": [of_anthropic("b")],
            "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        },
    ),
    (
        CHAT,
        [function("a"), function("b"), function("c")],
        {
            "type": "allowed_tools",
            "allowed_tools": {"mode": "auto", "tools": [function("c"), function("a")]},
        },
        {"tools": [function("a"), function("c")], "tool_choice": "auto"},
    ),
    (
        RESPONSES,
        [flat("a"), flat("b")],
        {"type": "allowed_tools", "mode": "required", "tools": [flat("b")]},
        {"tools": [flat("b")], "tool_choice": "required"},
    ),
]


@pytest.mark.parametrize(("path", "tools", "choice", "changes"), CHOICES)
def test_only_the_tools_that_are_named_are_sent(
    path: str, tools: list[dict[str, Any]], choice: Any, changes: dict[str, Any]
) -> None:
    request = asked(path, tools=tools, tool_choice=choice)

    body = chosen(request).body

    assert json.loads(body) == json.loads(request.body) | changes
    assert b"12345678901234567890" in body


def test_a_caller_may_want_several_calls_of_one_tool() -> None:
    choice = {"type": "function", "function": {"name": "a"}}
    request = asked(CHAT, tools=[function("a")], tool_choice=choice, parallel_tool_calls=True)

    assert json.loads(chosen(request).body)["parallel_tool_calls"] is True


def test_the_choice_of_none_leaves_no_tools() -> None:
    """llama.cpp takes Anthropic's for `auto`; it knows that of OpenAI, which is a word."""
    request = asked(MESSAGES, tools=[of_anthropic("a")], tool_choice={"type": "none"}, top_k=5)

    body = chosen(request).body

    assert json.loads(body) == {"model": "m", "seed": 12345678901234567890, "top_k": 5}


@pytest.mark.parametrize(
    ("path", "choice"),
    [
        (CHAT, "none"),
        (CHAT, "required"),
        (CHAT, None),
        (CHAT, {"type": "custom", "custom": {"name": "a"}}),
        (MESSAGES, {"type": "auto"}),
        (MESSAGES, {"type": "any", "disable_parallel_tool_use": True}),
        ("/completion", {"type": "function", "function": {"name": "a"}}),
    ],
)
def test_a_choice_without_names_stays(path: str, choice: Any) -> None:
    request = asked(path, tools=[function("a")], tool_choice=choice)

    assert chosen(request) is request


def test_a_choice_without_tools_stays() -> None:
    request = asked(CHAT, tool_choice={"type": "function", "function": {"name": "a"}})

    assert chosen(request) is request
