"""Streams of Responses: what the SDKs of OpenAI need, in whatever pieces it comes."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from inference_service.engines.exchange import Head
from inference_service.engines.llamacpp.responses import Events, Limits, whole

ID = {"id": "resp_1", "object": "response", "status": "in_progress"}
MESSAGE = {"type": "message", "id": "msg_1", "role": "assistant", "content": []}
CALL = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "arguments": ""}
REASONING = {"type": "reasoning", "id": "rs_1", "summary": [], "content": []}


def event(kind: str, **fields: Any) -> bytes:
    data = json.dumps({"type": f"response.{kind}", **fields}, ensure_ascii=False)
    return f"event: response.{kind}\ndata: {data}\n\n".encode()


def added(item: dict[str, Any]) -> bytes:
    return event("output_item.added", item=item)


CREATED = event("created", response=ID)
IN_PROGRESS = event("in_progress", response=ID)
PART = event("content_part.added", item_id="msg_1", part={"type": "output_text", "text": ""})
DELTA = event("output_text.delta", item_id="msg_1", delta=" žluť 🙂")
DONE = event("output_text.done", item_id="msg_1", text=" žluť 🙂")
COMPLETED = event("completed", response={**ID, "status": "completed", "output": [MESSAGE]})
TEXT = (CREATED, IN_PROGRESS, added(MESSAGE), PART, DELTA, DONE, COMPLETED)


def mended(*events: bytes) -> list[dict[str, Any]]:
    """Return the data of the events that come of these."""
    return parsed(Events("tiny").feed(b"".join(events)))


def parsed(stream: bytes) -> list[dict[str, Any]]:
    found = []
    for block in filter(None, stream.split(b"\n\n")):
        name, data = block.split(b"\n")
        found.append(json.loads(data.removeprefix(b"data: ")))
        assert name == b"event: " + found[-1]["type"].encode()
    return found


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def test_a_text_has_all_that_the_sdks_read() -> None:
    created, in_progress, item, part, delta, done, completed = mended(*TEXT)

    for first in (created, in_progress):
        assert first["response"].pop("created_at") > 0
        assert first["response"] == {**ID, "model": "tiny", "output": []}
    assert item["output_index"] == 0
    assert item["item"] == MESSAGE
    place = {"output_index": 0, "content_index": 0, "item_id": "msg_1"}
    for each in (part, delta, done):
        assert each | place == each
    assert part["part"] == {"type": "output_text", "text": "", "annotations": []}
    assert (delta["delta"], delta["logprobs"]) == (" žluť 🙂", [])
    assert (done["text"], done["logprobs"]) == (" žluť 🙂", [])
    assert completed["response"]["output"] == [MESSAGE]


USAGE = {"input_tokens": 4, "output_tokens": 12, "total_tokens": 16}
TWELVE = Limits({12})
DETAILS = {"reason": "max_output_tokens"}
HEAD = Head(200, {b"content-length": b"5"})


def response(**more: Any) -> dict[str, Any]:
    item = {**MESSAGE, "status": "completed"}
    given = {**ID, "status": "completed", "completed_at": 5, "output": [item, item], "usage": USAGE}
    return given | more


@pytest.mark.parametrize("limit", ["max_output_tokens", "max_tokens", "n_predict"])
def test_a_text_that_its_limit_has_ended_is_incomplete(limit: str) -> None:
    given = Limits.of({limit: msgspec.Raw(b"12")}, 0)

    head, body = whole(HEAD, json.dumps(response()).encode(), given)

    cut = json.loads(body)
    assert (cut["status"], cut["incomplete_details"]) == ("incomplete", DETAILS)
    assert [item["status"] for item in cut["output"]] == ["completed", "incomplete"]
    assert "completed_at" not in cut
    assert head.headers == {b"content-type": b"application/json; charset=utf-8"}


def test_a_text_that_the_context_has_ended_is_incomplete() -> None:
    for context, status in ((16, "incomplete"), (17, "completed"), (0, "completed")):
        _, body = whole(HEAD, json.dumps(response()).encode(), Limits((), context))
        assert json.loads(body)["status"] == status


def test_a_stream_that_its_limit_has_ended_is_incomplete_at_its_end() -> None:
    data = Events("tiny", TWELVE).feed(CREATED + event("completed", response=response()))

    last = parsed(data)[-1]
    assert last["type"] == "response.incomplete"
    assert last["response"]["incomplete_details"] == DETAILS
    assert parsed(Events("tiny", Limits({13})).feed(data))[-1]["type"] == "response.incomplete"


@pytest.mark.parametrize(
    "other",
    [
        response(usage={"output_tokens": 11, "total_tokens": 15}),
        response(usage=None),
        response(status="failed"),
        [5],
    ],
)
def test_other_answers_stay_as_they_are(other: Any) -> None:
    body = json.dumps(other).encode()

    assert whole(HEAD, body, TWELVE) == (HEAD, body)
    assert whole(HEAD, b"{", TWELVE) == (HEAD, b"{")
    data = Events("tiny", TWELVE).feed(CREATED + event("completed", response=other))
    assert parsed(data)[-1]["type"] == "response.completed"


def test_limits_are_whole_numbers() -> None:
    options = {"max_output_tokens": b"null", "max_tokens": b"-1", "n_predict": b"7", "n": b"3"}

    found = Limits.of({name: msgspec.Raw(value) for name, value in options.items()}, 512)
    assert found == ({7}, 512)


def test_events_are_numbered() -> None:
    assert [event["sequence_number"] for event in mended(*TEXT)] == list(range(len(TEXT)))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50, 1000])
def test_reads_may_end_anywhere(size: int) -> None:
    data = b"".join(TEXT)
    events = Events("tiny")
    reads = [data[at : at + size] for at in range(0, len(data), size)]

    got = parsed(b"".join(map(events.feed, reads)))

    assert kinds(got) == kinds(mended(*TEXT))
    assert got[4]["delta"] == " žluť 🙂"
    assert events.rest() == b""


def test_items_have_their_places_in_the_output() -> None:
    delta = event("function_call_arguments.delta", item_id="fc_1", delta="{}")
    late = event("output_text.done", item_id="msg_1", text="x")
    done = event("output_item.done", item=CALL)

    got = mended(CREATED, added(MESSAGE), added(CALL), delta, late, done)

    places = [(each["type"].removeprefix("response."), each["output_index"]) for each in got[1:]]
    assert places == [
        ("output_item.added", 0),
        ("output_item.added", 1),
        ("function_call_arguments.delta", 1),
        ("output_text.done", 0),
        ("output_item.done", 1),
    ]


def test_reasoning_has_a_part_before_its_text() -> None:
    """Node's SDK fails without it, and llama.cpp sends none."""
    delta = event("reasoning_text.delta", item_id="rs_1", delta="hm")

    got = mended(CREATED, added(REASONING), delta, delta)

    assert kinds(got)[2:] == [
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.delta",
    ]
    part = {"item_id": "rs_1", "output_index": 0, "content_index": 0}
    assert got[2] | part | {"part": {"type": "reasoning_text", "text": ""}} == got[2]


def test_first_events_that_are_missing_are_made() -> None:
    """llama.cpp sends them with the first token, if that has text."""
    created, in_progress, item, completed = mended(added(MESSAGE), COMPLETED)

    assert kinds([created, in_progress, item, completed])[:2] == ["created", "in_progress"]
    own = created["response"]["id"]
    assert own == in_progress["response"]["id"] == completed["response"]["id"]
    assert created["response"]["output"] == []
    assert item["sequence_number"] == 2


def test_a_response_of_its_last_event_alone_has_its_id() -> None:
    created, _, completed = mended(COMPLETED)

    assert created["response"]["id"] == completed["response"]["id"] == "resp_1"
    assert created["response"]["status"] == "in_progress"


def test_first_events_come_once() -> None:
    """Node's SDK would begin again, with an empty output."""
    got = mended(CREATED, IN_PROGRESS, added(MESSAGE), PART, CREATED, IN_PROGRESS, DELTA)

    assert kinds(got)[2:] == ["output_item.added", "content_part.added", "output_text.delta"]
    assert [each["sequence_number"] for each in got] == list(range(5))


def test_what_llamacpp_has_sent_wins() -> None:
    given = event("output_text.delta", item_id="x", delta="", output_index=5, content_index=2)

    assert (
        mended(CREATED, given)[-1] | {"output_index": 5, "content_index": 2}
        == mended(CREATED, given)[-1]
    )


@pytest.mark.parametrize(
    "other",
    [
        b":\n\n",
        b": the model starts\n\n",
        b"data: [DONE]\n\n",
        b'data: {"error":{"code":500,"message":"x"}}\n\n',
        b"data: [5]\n\n",
        b'data: {"type":5}\n\n',
        b'data: {"type":"response.created"\n\n',
        b"\n\n",
    ],
)
def test_what_is_no_event_of_a_response_stays_as_it_is(other: bytes) -> None:
    assert Events("tiny").feed(other) == other


def test_an_event_without_an_end_is_the_rest() -> None:
    events = Events("tiny")

    assert events.feed(b"data: {") == b""
    assert events.rest() == b"data: {"
    assert events.rest() == b""


def test_an_event_beyond_the_bound_passes_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inference_service.engines.llamacpp.responses._LARGEST", 100)
    events = Events("tiny")
    long = event("completed", response={"id": "x" * 200})

    assert events.feed(long[:150]) == long[:150]
    assert events.feed(long[150:]) == long[150:]
