"""What no engine should send, in the JSON of each kind of engine, over real sockets.

`tests/field/test_hostile_engine.py` has what concerns HTTP and all kinds alike.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

import pytest

from inference_service.engines.base import Engine, Prompt
from inference_service.engines.http import Connections
from inference_service.engines.llamacpp.engine import Llamacpp
from inference_service.engines.tgi.engine import Tgi
from inference_service.errors import EngineFailed
from inference_service.serving.measure import Measure
from tests.engines.scripted import Answer, plain, serving, stream
from tests.engines.waiting import soon
from tests.fakes import spec

PROMPT = Prompt("Once", max_new_tokens=5)


@dataclass(frozen=True)
class Kind:
    """A kind of engine; `token` is an event, `end` one whose counts are these."""

    make: Callable[[Connections], Engine]
    token: str
    end: str


KINDS = {
    "llamacpp": Kind(
        lambda connections: Llamacpp("", connections),
        '{"content":"x"}',
        '{"content":"","stop":true,"stop_type":"limit",'
        '"tokens_evaluated":COUNT,"tokens_predicted":1}',
    ),
    "tgi": Kind(
        lambda connections: Tgi("", connections=connections),
        '{"token":{"text":"x"}}',
        '{"token":{"text":"x"},"details":{"finish_reason":"length",'
        '"generated_tokens":5,"input_length":COUNT}}',
    ),
}

# Events, of which END is the last, and the words of the error.
EVENTS = {
    "nesting": ('{"x":' + "[" * 100_000, "not its own"),
    "objects in objects": ('{"x":' * 100_000, "not its own"),
    "no object": ("[1]", "not its own"),
    "not a number": ('{"tokens_evaluated":NaN,"token":NaN}', "not its own"),
    "no text": ('{"content":5,"token":{"text":5}}', "not its own"),
    "half of a pair": ('{"content":"\\ud800","token":{"text":"\\ud800"}}', "not its own"),
    "a count above int32": ("END 2147483648", "counted 2147483648 tokens"),
    "a count above int64": ("END 99999999999999999999", "counted 99999999999999999999 tokens"),
    "a count below 0": ("END -1", "counted -1 tokens"),
    "a count of many digits": ("END " + "9" * 9999, "not its own"),
}


def event(kind: Kind, given: str) -> bytes:
    if given.startswith("END "):
        given = kind.end.replace("COUNT", given.removeprefix("END "))
    return f"data: {given}\n\n".encode()


async def failure(kind: Kind, answer: Answer, *, whole: bool = False) -> str:
    """Ask for a text, and return the message of the error that it ends with."""
    engine = kind.make(Connections(keep_alive=False))
    async with serving(answer) as server:
        with pytest.raises(EngineFailed) as error:
            chunks = engine.generate(server.instance, spec(), PROMPT, whole=whole)
            check = Measure(PROMPT.max_new_tokens).check
            async with aclosing(chunks) as text:
                async for chunk in text:
                    check(chunk)
        if left := engine.parting(server.instance):
            await soon(next(iter(left)), "the end of the connection")
    await engine.aclose()
    return error.value.message


@pytest.mark.parametrize("name", EVENTS)
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
async def test_an_event_that_no_engine_should_send(kind: Kind, name: str) -> None:
    given, words = EVENTS[name]
    begun = event(kind, kind.token)
    assert words in await failure(kind, stream(begun, event(kind, given), end="hold"))


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
async def test_bytes_that_are_no_utf8(kind: Kind) -> None:
    bad = event(kind, kind.token).replace(b"x", b"\xff")
    assert "not its own" in await failure(kind, stream(bad, end="hold"))


async def test_a_text_that_ignores_its_limit() -> None:
    kind = KINDS["llamacpp"]
    six = event(kind, kind.token) * 6
    assert "sent more than 5 tokens" in await failure(kind, stream(six, end="hold"))


async def test_tokens_without_text_count_too() -> None:
    kind = KINDS["llamacpp"]
    six = event(kind, '{"content":""}') * 6
    assert "sent more than 5 tokens" in await failure(kind, stream(six, end="hold"))


@pytest.mark.parametrize(
    ("body", "header", "words"),
    [
        pytest.param(
            '{"details":{"finish_reason":"length","generated_tokens":6,"tokens":['
            + ",".join(['{"text":"x"}'] * 6)
            + "]}}",
            "x-prompt-tokens: 1",
            "sent more than 5 tokens",
            id="more tokens",
        ),
        pytest.param('{"x":' + "[" * 100_000, "x: y", "not its own", id="nesting"),
        pytest.param("[" + " " * (5 << 20), "x: y", "more than 4194304 bytes", id="no end"),
        pytest.param(
            '{"details":{"finish_reason":"length","generated_tokens":1,"tokens":[{"text":"x"}]}}',
            "x-prompt-tokens: " + "9" * 9999,
            "not its own",
            id="a count of many digits",
        ),
        pytest.param(
            '{"details":{"finish_reason":"length","generated_tokens":1,"tokens":[{"text":"x"}]}}',
            "x-prompt-tokens: -5",
            "counted -5 tokens",
            id="a count below 0",
        ),
    ],
)
async def test_a_whole_answer_that_tgi_should_not_send(body: str, header: str, words: str) -> None:
    answer = plain(200, body.encode(), header=header)
    assert words in await failure(KINDS["tgi"], answer, whole=True)
