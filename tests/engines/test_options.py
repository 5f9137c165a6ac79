"""Options are honoured or refused: the rules, and real engines on which they rest."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from inference_service.engines.base import Engine
from inference_service.engines.llamacpp.engine import Llamacpp
from inference_service.engines.openai.engine import Openai
from inference_service.errors import EngineLost, InvalidParameter
from inference_service.runtimes.ports import Ports
from tests.engines import beds
from tests.engines.beds import Bed, posted
from tests.fakes import spec
from tests.sinks import Kept

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"

USER = {"role": "user", "content": "What is the capital of Japan?"}
CALL = {
    "role": "assistant",
    "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
IMAGE = {"type": "image_url", "image_url": {"url": "http://10.0.0.1/x.png"}}
BASE64 = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aa"}}
NAMED = {"type": "function", "function": {"name": "g"}}
DATA = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}

look = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def body_of(path: str, **options: Any) -> dict[str, Any]:
    """Return a body for a short greedy answer; `options` are added."""
    base: dict[str, Any] = {"temperature": 0, "max_tokens": 12}
    if path in (COMPLETIONS, "/completion"):
        base["prompt"] = "Once upon a time"
    elif path == RESPONSES:
        base = {"temperature": 0, "max_output_tokens": 12, "input": USER["content"]}
    else:
        base["messages"] = [USER]
    return base | options


def check(path: str, body: dict[str, Any] | bytes, engine: Engine | None = None) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    engine = engine or Llamacpp("")
    entry = spec() if isinstance(engine, Llamacpp) else beds.worker_of_openai()
    engine.check(entry, path, look(data))


def parts(*parts: dict[str, Any], role: str = "user") -> dict[str, Any]:
    return {"messages": [{"role": role, "content": list(parts)}]}


def schema(**schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}


# Of llama.cpp: each was sent to it and changed nothing, or something else than it says.
DROPPED: list[tuple[str, dict[str, Any], str]] = [
    (CHAT, {"functions": [{"name": "f"}]}, "functions must be left out: it is an old name (use"),
    (CHAT, {"function_call": {"name": "f"}}, "use `tools`"),
    (CHAT, {"tool_choice": "required"}, "tool_choice must not be required without `tools`"),
    (CHAT, {"modalities": ["text", "audio"]}, "modalities must be ['text']"),
    (CHAT, {"audio": {"voice": "alloy", "format": "wav"}}, "audio must be left out"),
    (CHAT, {"web_search_options": {}}, "web_search_options must be left out"),
    (CHAT, {"store": True}, "no answer is kept here"),
    (CHAT, {"verbosity": "low"}, "say it in a message"),
    (CHAT, {"logprobs": True, "top_logprobs": 0}, "top_logprobs must be a whole number from 1 to"),
    (CHAT, {"response_format": "json"}, "must be an object"),
    (CHAT, {"response_format": {"type": "json_schema", "json_schema": {"schema": 5}}}, "an object"),
    (CHAT, schema(type="integer", multipleOf=1000), "must not have `multipleOf`"),
    (CHAT, schema(type="string", pattern=r"^\d{3}$"), "must have patterns from `^` to `$`"),
    (CHAT, schema(type="string", pattern=r"^ab\!$"), "must have patterns from `^` to `$`"),
    (CHAT, schema(type="string", pattern="^a$|^b$"), "must have patterns from `^` to `$`"),
    (CHAT, schema(type="number", minimum=1000), "`minimum` for integers only"),
    (CHAT, schema(type="integer", minimum=1000), "must have a `maximum` beside"),
    (CHAT, {"guided_choice": ["a", "b"]}, "use `response_format`"),
    (CHAT, {"repetition_penalty": 0.1}, "its name in llama.cpp is `repeat_penalty`"),
    (CHAT, {"min_tokens": 12}, "min_tokens must be left out"),
    (CHAT, {"stop": 7}, "stop must be a string or a list of strings"),
    (CHAT, {"logit_bias": {"50": "x"}}, "must have a number for each token"),
    (CHAT, {"temperature": -1}, "temperature must be a number of at least 0"),
    (CHAT, {"top_p": 9}, "top_p must be a number from 0 to 1"),
    (CHAT, {"grammar": "%llguidance {}"}, "llama.cpp's own format"),
    (COMPLETIONS, {"echo": True}, "echo must be left out"),
    (COMPLETIONS, {"suffix": "The end."}, "suffix must be left out: use /infill"),
    (COMPLETIONS, {"best_of": 3}, "no engine chooses among texts"),
    (COMPLETIONS, {"logprobs": 0}, "sends none for 0"),
    (COMPLETIONS, {"response_format": {"type": "json_object"}}, "use /v1/chat/completions"),
    (RESPONSES, {"conversation": "conv_1"}, "no conversation is kept here"),
    (RESPONSES, {"background": True}, "no answer is kept here"),
    (RESPONSES, {"truncation": "auto"}, "send a shorter one"),
    (RESPONSES, {"prompt": {"id": "pmpt_1"}}, "no prompts are kept here"),
    (RESPONSES, {"include": ["message.output_text.logprobs"]}, "adds nothing"),
    (RESPONSES, {"text": {"format": {"type": "json_object"}}}, "must not have a `format`"),
    (RESPONSES, {"tools": [{"type": "web_search"}]}, "functions only, as no tool runs here"),
    (MESSAGES, {"mcp_servers": [{"type": "url", "url": "http://x", "name": "x"}]}, "no tool runs"),
    (MESSAGES, {"container": "c"}, "container must be left out"),
    (MESSAGES, {"thinking": {"type": "often"}}, "thinking must have the type enabled"),
    (MESSAGES, {"output_config": {"format": {"type": "json_schema"}}}, "must not have a `format`"),
    (MESSAGES, {"tools": [{"type": "bash_20250124", "name": "bash"}]}, "'bash_20250124'"),
    (MESSAGES, {"tool_choice": {"type": "any"}}, "tool_choice must have `tools` beside it"),
    (MESSAGES, {"inference_geo": "us"}, "nobody can tell where this engine is"),
]

# It answers another conversation than that of the caller, an error of its own, or nobody any more.
WRONG: list[tuple[str, dict[str, Any], str]] = [
    (CHAT, {"messages": []}, "messages must have at least one item"),
    (CHAT, {"messages": [{"role": "critic", "content": "hi"}]}, "'critic' (item 0)"),
    (CHAT, {"messages": [{"content": "hi"}]}, "missing required field `role`"),
    (
        CHAT,
        {"messages": [USER, {"role": "tool", "tool_call_id": "x", "content": ""}]},
        "'x', which",
    ),
    (CHAT, {"messages": [CALL, {"role": "tool", "tool_call_id": "c2", "content": ""}]}, "'c2'"),
    (CHAT, {"messages": [{"role": "tool", "content": ""}]}, "`tool_call_id` is none"),
    (CHAT, parts({"type": "text"}), "a string as the `text`"),
    (RESPONSES, {"input": parts({"type": "input_text"})["messages"]}, "a string as the `text`"),
    (MESSAGES, parts({"type": "text", "text": 7}), "a string as the `text`"),
    (CHAT, parts(DATA), "no images and no sounds"),
    (CHAT, parts({"type": "input_audio", "input_audio": {"data": "aa"}}), "no images and no"),
    (
        RESPONSES,
        {"input": parts({"type": "input_image", "image_url": "data:x"})["messages"]},
        "no images and no sounds",
    ),
    (MESSAGES, parts(BASE64), "no images and no sounds"),
    (
        CHAT,
        {"tools": [{"type": "function", "function": {"name": "f", "description": 5}}]},
        "a string as the `description` of item 0",
    ),
    (RESPONSES, {"tools": [{"type": "function", "name": "f", "parameters": 5}]}, "an object in"),
    (CHAT, {"tools": [TOOL], "tool_choice": NAMED}, "'g' is none of them"),
    (CHAT, {"tool_choice": NAMED}, "must name one of the `tools`"),
    (CHAT, {"tools": [TOOL], "tool_choice": 5}, 'tool_choice must be "auto", "none", "required"'),
    (CHAT, {"tools": [TOOL], "tool_choice": "any"}, 'tool_choice must be "auto"'),
    (CHAT, {"tools": [TOOL], "tool_choice": {"type": "custom"}}, 'tool_choice must be "auto"'),
    (
        CHAT,
        {"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}},
        'tool_choice must be "auto"',
    ),
    ("/apply-template", {"tools": [TOOL], "tool_choice": NAMED}, "'g' is none of them"),
    (
        RESPONSES,
        {
            "tools": [{"type": "function", "name": "f"}],
            "tool_choice": {
                "type": "allowed_tools",
                "mode": "auto",
                "tools": [{"type": "function", "name": "g"}],
            },
        },
        "'g' is none of them",
    ),
    (
        MESSAGES,
        {"tools": [{"name": "f"}], "tool_choice": {"type": "tool", "name": "g"}},
        "'g' is none of them",
    ),
    (MESSAGES, {"tools": [{"name": "f"}], "tool_choice": {"type": "tool"}}, "must have the `name`"),
    ("/v1/rerank", {"query": "x", "top_n": -1}, "top_n must be a whole number"),
    (CHAT, {"tools": "x"}, "tools cannot be read: must be a list"),
    (CHAT, {"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "must have functions only"),
    (CHAT, schema(type="string", minLength=5, maxLength=1), "`minLength` above `maxLength`"),
    (COMPLETIONS, {"json_schema": {"anyOf": [{"minItems": 2, "maxItems": 1}]}}, "above `maxItems`"),
    (
        CHAT,
        {
            "tools": [
                {
                    "type": "function",
                    "function": {
                        "name": "f",
                        "parameters": {"properties": {"a": {"minLength": 2, "maxLength": 1}}},
                    },
                }
            ]
        },
        "(item 0)",
    ),
    (CHAT, parts(*[{}] * 4097), "more than 4096 parts"),
    (MESSAGES, {"messages": [USER] * 10_001}, "more than 10000 items"),
    (CHAT, {"stop": ["a" * 100] * 3000}, "stop must have at most 262144 bytes"),
    (CHAT, {"stop": ["x", ""]}, "none of them empty"),
    (CHAT, {"temperature": 1e-38}, "temperature must be 0 for the most likely token, or at least"),
    (CHAT, {"max_tokens": 0}, "max_tokens must be at least 1, or -1"),
    (CHAT, {"max_tokens": 2**32 + 2}, "max_tokens must be a whole number from -1 to 2147483647"),
    (CHAT, {"max_tokens": 2.5}, "a whole number"),
    (CHAT, {"n": 10**6}, "n must be a whole number from 1 to 128"),
    (CHAT, {"n": "3"}, "n must be a whole number"),
    (CHAT, {"logprobs": True, "top_logprobs": 10**6}, "from 1 to 20"),
    (COMPLETIONS, {"logprobs": 10**6}, "logprobs must be a whole number from 1 to 20"),
    (COMPLETIONS, {"prompt": [""] * 1025}, "at most 1024 items, not 1025"),
    (COMPLETIONS, {"seed": 2**32 + 7}, "seed must be a whole number from -1 to 4294967294"),
    ("/completion", {"n_probs": 10**6}, "n_probs must be"),
    ("/completion", {"repeat_last_n": 2**31 - 1}, "repeat_last_n must be"),
    ("/completion", {"grammar_triggers": [{"type": 9, "value": "x"}]}, "internal to the engine"),
    ("/completion", {"id_slot": 2}, "the service chooses the slot"),
    (RESPONSES, {"input": []}, "input must have at least one item"),
    (
        RESPONSES,
        {"input": [{"type": "function_call_output", "call_id": "x", "output": "5"}]},
        "'x'",
    ),
    (MESSAGES, {"messages": None}, "messages is missing"),
    (MESSAGES, {"system": 5}, "system must be a text"),
    (MESSAGES, {"system": {"type": "text", "text": "x"}}, "system must be a text"),
    (MESSAGES, {"system": [5]}, "system cannot be read: Expected `object`"),
    (MESSAGES, {"system": [{"type": "text"}]}, "a string as the `text` of each text part (item 0)"),
    (MESSAGES, {"system": [{"type": "image", "text": "x"}]}, "text blocks only, and not 'image'"),
    (f"{MESSAGES}/count_tokens", {"system": 5}, "system must be a text"),
    (MESSAGES, {"tools": [{"name": "f"}], "tool_choice": {"type": "x"}}, "auto, any, tool or none"),
    (RESPONSES, {"instructions": 5}, "instructions must be a text"),
    (MESSAGES, {"messages": [{"role": "user", "content": None}]}, "must have a `content`"),
    (MESSAGES, {"messages": "x"}, "messages cannot be read: Expected `array`"),
    (MESSAGES, parts({"type": "document", "source": {"type": "text", "data": "x"}}), "'document'"),
    (MESSAGES, parts({"type": "image", "source": {"type": "file", "file_id": "x"}}), "base64"),
    (MESSAGES, parts({"type": "tool_result", "tool_use_id": "t1"}), "'t1', which no call has"),
]

FETCHING: list[tuple[str, dict[str, Any]]] = [
    (CHAT, parts(IMAGE)),
    ("/apply-template", parts(IMAGE)),
    (CHAT, parts({"type": "image_url", "image_url": "HTTPS://host/x.png"})),
    (CHAT, parts({"image_url": {"url": "file:///etc/passwd"}})),
    (CHAT, parts({"type": "video_url", "video_url": {"url": " http://host/x.mp4"}})),
    (RESPONSES, {"input": [parts(IMAGE)["messages"][0]]}),
    (
        RESPONSES,
        {
            "input": [
                {
                    "role": "user",
                    "content": [{"type": "input_image", "image_url": "http://host/x.png"}],
                }
            ]
        },
    ),
]

PASSING: list[tuple[str, dict[str, Any]]] = [
    *((path, {}) for path in (CHAT, COMPLETIONS, RESPONSES, MESSAGES)),
    (CHAT, {"user": "u", "store": False, "metadata": {"a": "b"}, "service_tier": "auto"}),
    (CHAT, {"safety_identifier": "x", "prompt_cache_key": "x", "prediction": {"content": "x"}}),
    (CHAT, {"stream": True, "stream_options": {"include_usage": True}}),
    (CHAT, {"n": 1, "tools": [], "functions": None, "logit_bias": {}, "modalities": ["text"]}),
    (CHAT, {"tools": None, "tool_choice": None, "n": None, "seed": None, "stop": None}),
    (CHAT, {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False}),
    (CHAT, {"response_format": {"type": "text"}}),
    (CHAT, {"response_format": {"type": "json_object"}}),
    (CHAT, schema(type="object", properties={"not": {"const": 1}, "n": {"type": "integer"}})),
    (CHAT, schema(type="string", pattern=r"^[a-c]{2}(x|y)\.$")),
    (CHAT, {"messages": [USER, CALL, {"role": "tool", "tool_call_id": "c1", "content": "5"}]}),
    (CHAT, {"messages": [{"role": "developer", "content": "Be short."}, USER]}),
    (CHAT, parts({"type": "text", "text": "see http://host/image_url"})),
    (CHAT, {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}}),
    (CHAT, {"temperature": 1e-6}),
    (CHAT, {"logprobs": False, "max_completion_tokens": 5, "max_tokens": None}),
    (COMPLETIONS, {"echo": False, "suffix": None, "best_of": 1, "logprobs": None, "n": 3}),
    (COMPLETIONS, {"best_of": 3, "n": 3, "prompt": list(range(5000))}),
    (RESPONSES, {"store": False, "include": ["reasoning.encrypted_content"], "truncation": None}),
    (RESPONSES, {"text": {"format": {"type": "text"}}, "reasoning": {"effort": "low"}}),
    (RESPONSES, {"instructions": None}),
    (MESSAGES, {"tools": [{"name": "f", "input_schema": {}}], "tool_choice": {"type": "none"}}),
    (MESSAGES, {"system": "Be short."}),
    (MESSAGES, {"system": None}),
    (MESSAGES, {"system": [{"type": "text", "text": "Be short.", "cache_control": {}}]}),
    (MESSAGES, {"thinking": {"type": "disabled"}, "mcp_servers": [], "metadata": {"user_id": "u"}}),
    (MESSAGES, {"tools": [{"name": "f", "input_schema": {}}],
                "tool_choice": {"type": "tool", "name": "f"}}),
    (MESSAGES, {"messages": [
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {
            "image_url": "http://host", "url": "http://host"}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": [
            {"type": "text", "text": "x"}]}]},
    ]}),
    ("/tokenize", {"content": "x", "functions": [1], "echo": True}),
]  # fmt: skip


@pytest.mark.parametrize(("path", "options", "words"), DROPPED + WRONG)
def test_what_llamacpp_would_drop_or_take_for_another_is_refused(
    path: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidParameter) as error:
        check(path, body_of(path, **options))

    assert words in error.value.message
    assert error.value.field in options
    assert error.value.metadata["model_id"]


@pytest.mark.parametrize(("path", "options"), PASSING)
def test_hints_and_values_that_ask_for_nothing_pass(path: str, options: dict[str, Any]) -> None:
    check(path, body_of(path, **options))
    check(path, body_of(path, **options), Openai())


def test_every_mistake_is_named() -> None:
    with pytest.raises(InvalidParameter) as error:
        check(COMPLETIONS, body_of(COMPLETIONS, echo=True, suffix="x", n=0))

    assert [part.split()[0] for part in error.value.message.split("; ")] == ["echo", "suffix", "n"]


@pytest.mark.parametrize(("path", "options"), FETCHING)
@pytest.mark.parametrize("engine", [Llamacpp(""), Openai()], ids=lambda engine: engine.name)
def test_no_engine_is_made_to_fetch(engine: Engine, path: str, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter, match="an address to fetch from"):
        check(path, body_of(path, **options), engine)


def test_an_image_of_anthropic_is_in_the_request() -> None:
    source = {"type": "url", "url": "https://host/x.png"}
    image = {"type": "image", "source": source}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [image]}
    for part in (image, result):
        with pytest.raises(InvalidParameter, match="an address to fetch from"):
            check(MESSAGES, body_of(MESSAGES, **parts(part)), Openai())
    check(MESSAGES, body_of(MESSAGES, **parts(BASE64)), Openai())


def test_images_pass_where_an_engine_may_have_eyes() -> None:
    check(CHAT, body_of(CHAT, **parts(DATA)), Openai())


@pytest.mark.parametrize(
    ("path", "field"),
    [
        *((path, "messages") for path in (CHAT, MESSAGES, "/apply-template")),
        (f"{MESSAGES}/count_tokens", "messages"),
        (RESPONSES, "input"),
        (COMPLETIONS, "prompt"),
        ("/completion", "prompt"),
        ("/v1/embeddings", "input"),
        ("/v1/rerank", "query"),
        ("/tokenize", "content"),
        ("/detokenize", "tokens"),
    ],
)
@pytest.mark.parametrize("given", [{}, {"max_tokens": 4}, None])
def test_what_llamacpp_answers_must_be_there(path: str, field: str, given: Any) -> None:
    """To some of them without it, llama.cpp has an empty answer and a 200."""
    with pytest.raises(InvalidParameter, match=f"{field} is missing"):
        check(path, {field: None} if given is None else given)


def test_no_escape_hides_an_address() -> None:
    hidden = json.dumps(body_of(CHAT, **parts(IMAGE))).encode()
    for plain, escaped in ((b"image_url", rb"image\u005fu\u0072l"), (b"http", rb"\u0068ttp")):
        with pytest.raises(InvalidParameter, match="an address to fetch from"):
            check(CHAT, hidden.replace(plain, escaped), Openai())


def test_an_entry_can_allow_to_fetch() -> None:
    entry = beds.worker_of_openai()
    needs = entry.sections["openai"].model_copy(update={"fetches_media": True})
    entry = entry.model_copy(update={"sections": {"openai": needs}})
    Openai().check(entry, CHAT, look(json.dumps(body_of(CHAT, **parts(IMAGE))).encode()))


@pytest.mark.parametrize(
    ("path", "options"),
    [
        (CHAT, {"n": 10**6}),
        (CHAT, {"logprobs": True, "top_logprobs": 10**6}),
        (COMPLETIONS, {"logprobs": 10**6}),
        (COMPLETIONS, {"prompt_logprobs": -1}),
        (COMPLETIONS, {"best_of": 10**6}),
        (COMPLETIONS, {"max_tokens": 10**12}),
        (COMPLETIONS, {"prompt": [""] * 1025}),
        ("/v1/embeddings", {"input": ["x"] * 2049}),
        (CHAT, {"messages": []}),
        (CHAT, {"functions": [{"name": "f"}]}),
        (CHAT, {"guided_json": {"type": "object"}}),
        (COMPLETIONS, {"guided_regex": "a+"}),
        (COMPLETIONS, {"best_of": 3, "n": 2}),
        (MESSAGES, {"mcp_servers": [{"url": "http://x"}]}),
    ],
)
def test_any_engine_is_protected(path: str, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter) as error:
        check(path, options, Openai())

    assert error.value.field in options


@pytest.mark.parametrize(
    ("path", "options"),
    [
        (COMPLETIONS, {"echo": True, "suffix": "x", "logprobs": 0, "prompt_logprobs": 1}),
        (
            CHAT,
            {"structured_outputs": {"choice": ["a"]}, "repetition_penalty": 1.1, "min_tokens": 5},
        ),
        (CHAT, {"guided_json": None, "guided_grammar": ""}),
        (COMPLETIONS, {"best_of": 2, "n": 2}),
        (CHAT, {"tool_choice": {"type": "function", "function": {"name": "f"}}, "tools": [TOOL]}),
        (CHAT, {"messages": [{"role": "critic", "content": "x"}]}),
        ("/v1/embeddings", {"dimensions": 64, "input": "x"}),
    ],
)
def test_what_some_engine_has_passes(path: str, options: dict[str, Any]) -> None:
    check(path, options, Openai())


def test_what_an_entry_says_is_dropped_is_refused() -> None:
    entry = beds.worker_of_openai()
    drops = ["n", "response_format", "tool_choice", "grammar", "store"]
    needs = entry.sections["openai"].model_copy(update={"drops": drops})
    entry = entry.model_copy(update={"sections": {"openai": needs}})
    for path in (CHAT, COMPLETIONS):
        for wanted in (
            {"n": 2},
            {"response_format": {"type": "json_object"}},
            {"tool_choice": "required"},
            {"grammar": "root ::= x"},
            {"store": True},
        ):
            with pytest.raises(InvalidParameter, match="the engine of this model drops it"):
                Openai().check(entry, path, look(json.dumps(wanted).encode()))
        nothing = {"n": 1, "tool_choice": "auto", "grammar": "", "store": False}
        nothing |= {"response_format": {"type": "text"}}
        Openai().check(entry, path, look(json.dumps(nothing).encode()))


# On the real program.


async def answer(bed: Bed, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    sink = Kept()
    await bed.engine.ask(bed.instance, posted(path, body), sink)
    return sink.heads[0].status, json.loads(sink.body)


def text_of(answer: Any) -> Any:
    """Return what an answer says, without its id, times and counts."""
    if "choices" in answer:
        return [(c.get("text") or c["message"], bool(c.get("logprobs"))) for c in answer["choices"]]
    return [part["text"] for part in (answer.get("content") or answer["output"][0]["content"])]


async def test_llamacpp_drops_what_is_refused(ports: Ports, subtests: pytest.Subtests) -> None:
    """One that fails here is honoured by this version: take it off the table."""
    async with beds.llamacpp(ports) as bed:
        without = {}
        for path in (CHAT, COMPLETIONS, RESPONSES, MESSAGES):
            _, plain = await answer(bed, path, body_of(path))
            without[path] = text_of(plain)
        for path, options, _ in DROPPED:
            if "response_format" in options and path == CHAT and "schema" in str(options):
                continue  # the schema is kept in part
            with subtests.test(f"{path} {options}"):
                status, got = await answer(bed, path, body_of(path, **options))
                assert (status, text_of(got)) == (200, without[path])


async def test_llamacpp_answers_what_has_no_question(ports: Ports) -> None:
    """The reason why these fields must be there."""
    async with beds.llamacpp(ports) as bed:
        assert await answer(bed, "/tokenize", {}) == (200, {"tokens": []})
        assert await answer(bed, "/detokenize", {}) == (200, {"content": ""})


async def test_llamacpp_takes_any_system_for_a_text(ports: Ports) -> None:
    async with beds.llamacpp(ports) as bed:
        count = f"{MESSAGES}/count_tokens"
        _, without = await answer(bed, count, {"messages": [USER]})
        for system in (5, [{"type": "image", "text": "x"}], {"a": 1}):
            status, got = await answer(bed, count, {"messages": [USER], "system": system})
            assert (status, got["input_tokens"] > without["input_tokens"]) == (200, True)


async def test_llamacpp_honours_what_passes(ports: Ports) -> None:
    async with beds.llamacpp(ports) as bed:
        _, two = await answer(bed, CHAT, body_of(CHAT, n=2))
        assert len(two["choices"]) == 2
        _, stopped = await answer(bed, CHAT, body_of(CHAT, stop=["Tokyo"]))
        assert "Tokyo" not in str(text_of(stopped))
        _, likely = await answer(bed, CHAT, body_of(CHAT, logprobs=True, top_logprobs=2))
        assert len(likely["choices"][0]["logprobs"]["content"][0]["top_logprobs"]) == 2
        _, biased = await answer(bed, COMPLETIONS, body_of(COMPLETIONS, logit_bias={"300": 100}))
        assert biased["choices"][0]["text"] == "ow" * 12
        three = schema(type="string", pattern="^[0-9]{3}$")
        _, digits = await answer(bed, CHAT, body_of(CHAT, **three))
        assert len(json.loads(digits["choices"][0]["message"]["content"])) == 3


async def test_a_field_that_is_internal_ends_llamacpp_with_the_texts_of_all(ports: Ports) -> None:
    """The reason why these fields are refused."""
    async with beds.llamacpp(ports) as bed:
        body = body_of(COMPLETIONS, grammar_triggers=[{"type": 9, "value": "x"}])
        with pytest.raises(EngineLost):
            await bed.engine.ask(bed.instance, posted(COMPLETIONS, body), Kept())
        assert not await bed.engine.ready(bed.instance)
