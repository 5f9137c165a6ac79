"""OpenAI's JSON at TGI's double, and with answers that a real TGI seldom gives."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from inference_service.catalog import ModelSpec
from inference_service.engines.exchange import Request
from inference_service.engines.tgi.engine import Tgi
from inference_service.engines.tgi.section import HubWeights, TgiNeeds
from inference_service.errors import EngineFailed, EngineLost, InvalidParameter
from tests.engines import beds
from tests.engines.beds import TgiBed, posted
from tests.engines.scripted import Answer, event, plain, serving, stream
from tests.sinks import Kept

COMPLETIONS, CHAT, MODELS = "/v1/completions", "/v1/chat/completions", "/v1/models"
SAY = "[[say:One two three. Four five.]]"
TEXT = "One two three. Four five."
DONE = b"data: [DONE]\n\n"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bed() -> AsyncIterator[TgiBed]:
    async with beds.tgi(MODEL_ID="org/model") as bed:
        yield bed


pytestmark = pytest.mark.asyncio(loop_scope="module")


def spec(**env: str) -> ModelSpec:
    tgi = TgiNeeds(memory="1GB", weights=HubWeights(repo="a/tiny"), env=env)  # type: ignore[arg-type]
    return ModelSpec(id="tiny", hf_name="a/tiny", context_length=2048, sections={"tgi": tgi})


def body_of(path: str, text: str = SAY, **options: Any) -> dict[str, Any]:
    prompt = {"prompt": text} if path == COMPLETIONS else {"messages": [user(text)]}
    return {"model": "mine", "max_tokens": 100, "temperature": 0} | prompt | options


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


async def ask(bed: TgiBed, path: str, body: dict[str, Any]) -> Kept:
    sink = Kept()
    await bed.engine.ask(bed.instance, posted(path, body), sink)
    assert sink.ends == [None]
    return sink


async def whole(bed: TgiBed, path: str, body: dict[str, Any]) -> dict[str, Any]:
    sink = await ask(bed, path, body)
    assert (sink.heads[0].status, sink.heads[0].content_type) == (200, "application/json")
    answer: dict[str, Any] = json.loads(sink.body)
    return answer


async def events(bed: TgiBed, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    sink = await ask(bed, path, body | {"stream": True})
    assert (sink.heads[0].status, sink.heads[0].content_type) == (200, "text/event-stream")
    return events_of(sink.body)


def events_of(body: bytes) -> list[dict[str, Any]]:
    assert body.endswith(DONE)
    frames = body.removesuffix(DONE).split(b"\n\n")
    assert frames.pop() == b""
    return [json.loads(frame.removeprefix(b"data: ")) for frame in frames]


def text_of(answer: dict[str, Any]) -> str:
    (choice,) = answer["choices"]
    text: str = choice["text"] if "text" in choice else choice["message"]["content"]
    return text


def joined(events: list[dict[str, Any]], index: int = 0) -> tuple[str, list[str | None]]:
    """Return the text of a stream, and the reasons of its events."""
    own = [one for each in events for one in each["choices"] if one["index"] == index]
    texts = [one["text"] if "text" in one else one["delta"]["content"] for one in own]
    return "".join(texts), [one["finish_reason"] for one in own]


BOTH = pytest.mark.parametrize("path", [COMPLETIONS, CHAT])


@BOTH
async def test_a_whole_text_is_as_openai_sends_it(bed: TgiBed, path: str) -> None:
    answer = await whole(bed, path, body_of(path))

    assert text_of(answer) == TEXT
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["model"] == "mine"
    assert answer["id"].startswith("cmpl-" if path == COMPLETIONS else "chatcmpl-")
    assert answer["usage"]["total_tokens"] > answer["usage"]["completion_tokens"] > 0


@BOTH
async def test_a_stream_is_as_openai_sends_it(bed: TgiBed, path: str) -> None:
    found = await events(bed, path, body_of(path))

    text, reasons = joined(found)
    assert text == TEXT  # without the text of the token at the end
    assert reasons == [None] * (len(reasons) - 1) + ["stop"]
    assert {each["model"] for each in found} == {"mine"}
    assert len({each["id"] for each in found}) == 1
    assert found[0]["id"]
    assert not any(each.get("usage") for each in found)


@BOTH
async def test_usage_is_the_last_event_where_it_is_asked_for(bed: TgiBed, path: str) -> None:
    found = await events(bed, path, body_of(path, stream_options={"include_usage": True}))
    plain_usage = (await whole(bed, path, body_of(path)))["usage"]

    *others, last = found
    assert (last["choices"], last["usage"]) == ([], plain_usage)
    assert all(each["usage"] is None for each in others)


@BOTH
@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (" Four", "One two three."),
        ([" Four", "zzz"], "One two three."),
        ("hree. Fo", "One two t"),  # within tokens, so that TGI goes on
        ("zzz", TEXT),
    ],
)
async def test_a_text_ends_before_its_stop_sequence(
    bed: TgiBed, path: str, stop: str | list[str], expected: str
) -> None:
    answer = await whole(bed, path, body_of(path, stop=stop))
    text, reasons = joined(await events(bed, path, body_of(path, stop=stop)))
    counted = await events(
        bed, path, body_of(path, stop=stop, stream_options={"include_usage": True})
    )

    assert text_of(answer) == text == joined(counted)[0] == expected
    assert answer["choices"][0]["finish_reason"] == reasons[-1] == "stop"
    assert counted[-1]["usage"]["completion_tokens"]


@BOTH
async def test_a_text_that_ends_by_its_limit(bed: TgiBed, path: str) -> None:
    body = body_of(path, "[[no_eos]]", max_tokens=5)

    assert (await whole(bed, path, body))["choices"][0]["finish_reason"] == "length"
    assert joined(await events(bed, path, body))[1][-1] == "length"


async def test_several_prompts(bed: TgiBed) -> None:
    body = body_of(
        COMPLETIONS, prompt=[SAY, "[[say:Six.]]"], stream_options={"include_usage": True}
    )
    one = body_of(COMPLETIONS)
    async with beds.tgi(gpu=True, MODEL_ID="org/model") as bed:
        answer = await whole(bed, COMPLETIONS, body)
        found = await events(bed, COMPLETIONS, body)
        alone = await whole(bed, COMPLETIONS, one)

    assert [each["text"] for each in answer["choices"]] == [TEXT, "Six."]
    assert [joined(found, index)[0] for index in (0, 1)] == [TEXT, "Six."]
    assert found[-1]["usage"] == answer["usage"]
    assert answer["usage"]["total_tokens"] > alone["usage"]["total_tokens"]


@BOTH
async def test_values_that_tgi_refuses_and_that_ask_for_nothing(bed: TgiBed, path: str) -> None:
    nothing: dict[str, Any] = {
        "top_p": 1,
        "presence_penalty": 0,
        "n": 1,
        "logit_bias": {},
        "stop": None,
        "seed": None,
        "max_tokens": None,
        "max_completion_tokens": 50,
        "stream_options": None,
        "user": "u",
        "tools": [],
        "tool_choice": None,
        "response_format": {"type": "text"},
        "suffix": "",
    }
    body = body_of(path, **nothing)
    Tgi("").check(spec(), path, msgspec.json.decode(json.dumps(body), type=dict[str, msgspec.Raw]))

    assert text_of(await whole(bed, path, body)) == TEXT


async def test_a_penalty_of_nothing_is_no_penalty(bed: TgiBed) -> None:
    """TGI itself would take it for a repetition penalty of 2."""
    seen = await _sent(CHAT, body_of(CHAT, presence_penalty=0, frequency_penalty=1))

    assert "presence_penalty" not in seen
    assert (seen["frequency_penalty"], seen["model"]) == (1, "tgi")


async def test_a_schema_is_in_tgis_own_form() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    seen = await _sent(CHAT, body_of(CHAT, response_format=form))

    assert seen["response_format"] == {"type": "json", "value": schema}


async def _sent(path: str, body: dict[str, Any]) -> Any:
    """Return the body that TGI gets."""
    engine = Tgi("")
    async with serving(plain(200, b'{"choices": []}')) as server:
        await engine.ask(server.instance, posted(path, body), Kept())
        ((_, seen),) = server.requests
    await engine.aclose()
    return seen


async def test_the_models_have_the_name_of_the_service(bed: TgiBed) -> None:
    sink = Kept()
    await bed.engine.ask(bed.instance, Request("GET", MODELS), sink)

    assert [model["id"] for model in json.loads(sink.body)["data"]] == [bed.spec.id]


@BOTH
@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize(
    ("fault", "status", "kind"),
    [
        ("status=422", 422, "invalid_request_error"),
        ("status=429", 429, "rate_limit_error"),
        ("status=500", 500, "server_error"),
        ("plain", 502, "server_error"),
    ],
)
async def test_a_refusal_has_its_status_and_the_form_of_openai(
    bed: TgiBed, path: str, streams: bool, fault: str, status: int, kind: str
) -> None:
    sink = await ask(bed, path, body_of(path, f"[[fault:{fault}]]", stream=streams))

    assert (sink.heads[0].status, sink.heads[0].content_type) == (status, "application/json")
    error = json.loads(sink.body)["error"]
    assert (error["type"], bool(error["message"]), error["param"]) == (kind, True, None)


@BOTH
async def test_plain_text_is_an_error_of_openai(bed: TgiBed, path: str) -> None:
    sink = await ask(bed, path, body_of(path, seed=-1))

    assert sink.heads[0].status == 422
    assert "invalid value: integer `-1`" in json.loads(sink.body)["error"]["message"]


async def test_a_model_without_a_template() -> None:
    async with beds.tgi(MODEL_ID="org/gpt2") as bed:
        for streams in (False, True):
            sink = await ask(bed, CHAT, body_of(CHAT, stream=streams))

            error = json.loads(sink.body)["error"]
            assert (sink.heads[0].status, error["code"]) == (422, "template_error")
            assert "template not found" in error["message"]


@BOTH
async def test_an_error_within_a_stream(bed: TgiBed, path: str) -> None:
    found = await events(bed, path, body_of(path, "[[no_eos]][[fault:error_after=3]]"))

    *texts, last = found
    assert texts
    assert last["error"]["type"] == "server_error"
    assert "http_status_code" not in last["error"]


@BOTH
@pytest.mark.parametrize("fault", ["cut_after=2", "half_event=2", "garbage=2"])
async def test_a_stream_that_breaks_off_has_no_good_end(bed: TgiBed, path: str, fault: str) -> None:
    sink = Kept()
    body = body_of(path, f"[[no_eos]][[fault:{fault}]]", stream=True)
    with pytest.raises(EngineFailed):
        await bed.engine.ask(bed.instance, posted(path, body), sink)

    # A sink without a head has none of it, as where all came in one read.
    assert not sink.heads or isinstance(sink.ends[0], Exception)
    assert not sink.body.endswith(DONE)


@BOTH
async def test_every_byte_by_itself(bed: TgiBed, path: str) -> None:
    found = await events(bed, path, body_of(path, f"{SAY}[[fault:bytes]]"))

    assert joined(found)[0] == TEXT


async def test_an_engine_that_dies_is_lost(bed: TgiBed) -> None:
    """Another may repeat the request, as the sink has got nothing."""
    sink = Kept()
    async with beds.tgi(MODEL_ID="org/model") as bed:
        with pytest.raises(EngineLost):
            body = body_of(COMPLETIONS, "[[no_eos]][[fault:shard_after=1]]")
            await bed.engine.ask(bed.instance, posted(COMPLETIONS, body), sink)
    assert not sink.heads


async def scripted(answer: Answer, path: str = COMPLETIONS, **options: Any) -> Kept:
    sink, engine = Kept(), Tgi("")
    async with serving(answer) as server:
        try:
            await engine.ask(server.instance, posted(path, body_of(path, **options)), sink)
        finally:
            await engine.aclose()
    return sink


async def test_an_answer_is_not_held_without_bound() -> None:
    with pytest.raises(EngineFailed, match="more than 8388608 bytes"):
        await scripted(plain(200, *[b" " * (1 << 20)] * 9))


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b"{}", b'{"choices": [{}]}', b'{"choices": [{"message": {}}]}']
)
async def test_an_answer_that_is_not_tgis(body: bytes) -> None:
    with pytest.raises(EngineFailed, match="sent an answer that is not its own"):
        await scripted(plain(200, body), CHAT)


@pytest.mark.parametrize(
    "choice", [{}, {"index": 7, "text": "x", "finish_reason": ""}, {"index": 0, "text": "x"}]
)
async def test_an_event_that_is_not_tgis(choice: dict[str, Any]) -> None:
    with pytest.raises(EngineFailed, match="sent an event that is not its own"):
        await scripted(stream(event({"choices": [choice]}), DONE), stream=True)


async def test_a_comment_keeps_the_way_open() -> None:
    final = event({"choices": [{"index": 0, "text": "x", "finish_reason": "length"}]})
    sink = await scripted(stream(b":\n\n", final, DONE), stream=True)

    assert sink.body.startswith(b":\n\ndata: ")
    assert joined(events_of(sink.body.removeprefix(b":\n\n")))[0] == "x"


async def test_an_empty_refusal_says_something() -> None:
    sink = await scripted(plain(401))

    assert json.loads(sink.body)["error"]["message"] == "the engine answered HTTP 401"


async def test_a_sink_that_leaves_with_the_head_gets_nothing_more(bed: TgiBed) -> None:
    for streams in (False, True):
        sink = Kept(on_head=lambda sink: sink.source.close())
        body = body_of(COMPLETIONS, stream=streams)
        await bed.engine.ask(bed.instance, posted(COMPLETIONS, body), sink)
        assert not sink.pieces and not sink.ends


@pytest.mark.parametrize(
    ("path", "options", "words"),
    [
        (CHAT, {"presence_penalty": 0.5}, "use `frequency_penalty`"),
        (COMPLETIONS, {"presence_penalty": 0.5}, "use `frequency_penalty`"),
        (CHAT, {"n": 2}, "n must be 1"),
        (COMPLETIONS, {"best_of": 2}, "best_of must be 1"),
        (CHAT, {"logit_bias": {"50": -100}}, "logit_bias must be left out"),
        (COMPLETIONS, {"suffix": "x"}, "suffix must be left out"),
        (COMPLETIONS, {"echo": True}, "echo must be left out"),
        (COMPLETIONS, {"logprobs": 2}, "in chats alone"),
        (COMPLETIONS, {"prompt": ["a"] * 5}, "prompt must have at most 4 texts"),
        (COMPLETIONS, {"prompt": [1, 2]}, "takes no tokens"),
        (CHAT, {"max_tokens": 1025}, "from 1 to 1024: leave it out for more"),
        (CHAT, {"max_tokens": 0}, "from 1 to 1024"),
        (CHAT, {"temperature": -1}, "temperature must be"),
        (CHAT, {"top_p": 0}, "top_p must be"),
        (CHAT, {"seed": -1}, "seed must be"),
        (CHAT, {"frequency_penalty": 3}, "frequency_penalty must be"),
        (CHAT, {"stop": ["a"] * 5}, "at most 4 sequences"),
        (CHAT, {"stop": ""}, "none of them empty"),
        (CHAT, {"top_k": 5}, "use /generate"),
        (CHAT, {"repetition_penalty": 1.5}, "use /generate"),
        (CHAT, {"top_logprobs": 6, "logprobs": True}, "from 0 to 5"),
        (CHAT, {"response_format": {"type": "json_object"}}, "no JSON without a schema"),
        (CHAT, {"messages": []}, "at least one item"),
        (CHAT, {"messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "http://x/y.png"}}]}]}, "to fetch from"),
    ],
)  # fmt: skip
async def test_what_tgi_would_drop_or_take_for_another_is_refused(
    path: str, options: dict[str, Any], words: str
) -> None:
    raw = json.dumps(body_of(path, **options))
    with pytest.raises(InvalidParameter) as error:
        Tgi("").check(spec(), path, msgspec.json.decode(raw, type=dict[str, msgspec.Raw]))

    assert words in error.value.message


async def test_an_entry_may_take_more_prompts_at_once() -> None:
    raw = json.dumps(body_of(COMPLETIONS, prompt=["a"] * 5))
    options = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])

    Tgi("").check(spec(MAX_CLIENT_BATCH_SIZE="8"), COMPLETIONS, options)
