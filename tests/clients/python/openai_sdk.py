"""The SDK `openai`: synchronous, asynchronous, streams, structured output, tools, embeddings."""

import asyncio
import json
import sys

import openai
from pydantic import BaseModel, Field

URL, MODEL, EMBEDDER, COLD = sys.argv[1:5]
KEY = "sk-any"
ASK = [{"role": "user", "content": "Tell a story about a dog."}]
# Two texts of llama.cpp are the same when neither uses what is left of the other.
SAME = {"temperature": 0, "extra_body": {"cache_prompt": False}}

client = openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)
cold = openai.OpenAI(base_url=f"{COLD}/v1", api_key=KEY, max_retries=0)


class Animal(BaseModel):
    name: str = Field(max_length=16)
    legs: int = Field(ge=0, le=99)


TOOL = {
    "type": "function",
    "function": {
        "name": "count_legs",
        "description": "Count the legs of an animal.",
        "parameters": {
            "type": "object",
            "properties": {"animal": {"type": "string", "maxLength": 8}},
            "required": ["animal"],
        },
    },
}


def models() -> None:
    ids = [model.id for model in client.models.list()]
    assert MODEL in ids, ids
    assert client.models.retrieve(MODEL).id == MODEL


def chat() -> str:
    answer = client.chat.completions.create(model=MODEL, messages=ASK, max_tokens=16, **SAME)
    assert answer.model == MODEL
    assert isinstance(answer.created, int)
    assert answer.usage.completion_tokens > 0
    [choice] = answer.choices
    assert choice.finish_reason in ("length", "stop")
    assert choice.message.tool_calls is None
    return choice.message.content


def chat_stream(client: openai.OpenAI, whole: str) -> None:
    asked = {"model": MODEL, "messages": ASK, "max_tokens": 16, "stream": True, **SAME}
    chunks = list(client.chat.completions.create(**asked))
    assert all(len(chunk.choices) == 1 for chunk in chunks), "no usage was asked for"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason in ("length", "stop")
    assert len({chunk.id for chunk in chunks}) == 1
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole, (text, whole)

    chunks = list(client.chat.completions.create(**asked, stream_options={"include_usage": True}))
    *texts, last = chunks
    assert last.choices == []
    assert last.usage.completion_tokens > 0
    assert "".join(chunk.choices[0].delta.content or "" for chunk in texts) == whole


async def concurrently() -> None:
    async with openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key=KEY) as many:
        asked = {"model": MODEL, "messages": ASK, "max_tokens": 16, "temperature": 0}
        answers = await asyncio.gather(*(many.chat.completions.create(**asked) for _ in range(8)))
        assert all(answer.choices[0].message.content for answer in answers)
        stream = await many.chat.completions.create(**asked, stream=True)
        assert [chunk async for chunk in stream]


def completions() -> None:
    asked = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 8, **SAME}
    answer = client.completions.create(**asked)
    assert answer.choices[0].text
    stream = client.completions.create(**asked, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == answer.choices[0].text


def structured() -> None:
    answer = client.chat.completions.parse(
        model=MODEL, messages=ASK, max_tokens=200, temperature=0, response_format=Animal
    )
    assert isinstance(answer.choices[0].message.parsed, Animal)


def tools() -> None:
    asked = {"model": MODEL, "messages": ASK, "max_tokens": 200, "tools": [TOOL], **SAME}
    answer = client.chat.completions.create(**asked, tool_choice="required")
    [call] = answer.choices[0].message.tool_calls
    assert answer.choices[0].finish_reason == "tool_calls"
    assert call.id
    assert call.function.name == "count_legs"
    arguments = json.loads(call.function.arguments)
    assert list(arguments) == ["animal"]

    with client.chat.completions.stream(**asked, tool_choice="required") as stream:
        [streamed] = stream.get_final_completion().choices[0].message.tool_calls
    assert streamed.function.name == "count_legs"
    assert json.loads(streamed.function.arguments) == arguments

    other = {"type": "function", "function": {**TOOL["function"], "name": "count_eyes"}}
    answer_of_one = client.chat.completions.create(
        **{**asked, "tools": [TOOL, other]},
        tool_choice={"type": "function", "function": {"name": "count_eyes"}},
    )
    [named] = answer_of_one.choices[0].message.tool_calls
    assert named.function.name == "count_eyes"

    messages = [
        *ASK,
        answer.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "4"},
    ]
    again = client.chat.completions.create(
        model=MODEL, messages=messages, max_tokens=16, tools=[TOOL], tool_choice="none"
    )
    assert again.choices[0].message.content


def responses() -> None:
    asked = {"model": MODEL, "input": "Once upon a time", "max_output_tokens": 16, "temperature": 0}
    answer = client.responses.create(**asked)
    assert answer.output_text
    assert answer.status == "incomplete"
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.usage.output_tokens > 0


def responses_stream(client: openai.OpenAI) -> None:
    asked = {"model": MODEL, "input": "Once upon a time", "max_output_tokens": 16, "temperature": 0}
    with client.responses.stream(**asked) as stream:
        events = list(stream)
    final = events[-1].response  # `get_final_response` knows no response that was cut
    assert events[0].type == "response.created"
    # vLLM says so in the status alone.
    assert events[-1].type in ("response.incomplete", "response.completed")
    assert final.status == "incomplete"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    texts = [event for event in events if event.type == "response.output_text.delta"]
    assert "".join(event.delta for event in texts) == final.output_text != ""
    assert texts[-1].snapshot == final.output_text


def responses_tool() -> None:
    function = {**TOOL["function"], "strict": True}
    function["parameters"] = {**function["parameters"], "additionalProperties": False}
    tools = [
        {"type": "function", **function, "name": name} for name in ("count_legs", "count_eyes")
    ]
    asked = {"model": MODEL, "input": ASK, "max_output_tokens": 200, "temperature": 0}
    choice = {"type": "function", "name": "count_eyes"}
    with client.responses.stream(**asked, tools=tools, tool_choice=choice) as stream:
        *_, last = (event for event in stream if event.type.endswith("arguments.delta"))
        [call] = stream.get_final_response().output
    assert call.name == "count_eyes"
    assert last.snapshot == call.arguments
    assert list(call.parsed_arguments) == ["animal"]


def embeddings() -> None:
    answer = client.embeddings.create(model=EMBEDDER, input=["a dog", "a cat"])  # in base64
    assert answer.usage.prompt_tokens > 0
    plain = client.embeddings.create(
        model=EMBEDDER, input=["a dog", "a cat"], encoding_format="float"
    )
    for coded, item in zip(answer.data, plain.data, strict=True):
        assert len(coded.embedding) == len(item.embedding) > 8
        pairs = zip(coded.embedding, item.embedding, strict=True)
        assert max(abs(one - other) for one, other in pairs) < 1e-3
    assert answer.data[0].embedding != answer.data[1].embedding


def errors() -> None:
    try:
        client.chat.completions.create(model="nobody", messages=ASK)
        raise AssertionError
    except openai.NotFoundError as error:
        assert error.code == "model_not_found"
        assert "no model 'nobody'" in error.message
    try:
        client.embeddings.create(model=MODEL, input="x")
        raise AssertionError
    except openai.NotFoundError as error:
        assert error.code == "path_not_offered"
    try:
        client.chat.completions.create(model=MODEL, messages=ASK, n=10**6)
        raise AssertionError
    except openai.BadRequestError as error:
        assert error.param == "n", error
    try:
        long = [{"role": "user", "content": "a dog " * 2000}]
        client.chat.completions.create(model=MODEL, messages=long)
        raise AssertionError
    except openai.BadRequestError as error:
        assert error.code == "context_length_exceeded", error
    stream = client.chat.completions.create(model=MODEL, messages=ASK, stream=True)
    next(iter(stream))
    stream.close()


def failure_in_a_stream() -> None:
    asked = {"model": "broken", "stream": True}
    for create, words in (
        (cold.chat.completions.create, {"messages": ASK}),
        (cold.completions.create, {"prompt": "Once"}),
    ):
        try:
            list(create(**asked, **words))
            raise AssertionError
        except openai.APIError as error:
            assert error.code == "start_failed"
            assert "the weights are damaged" in error.message
    [event] = cold.responses.create(**asked, input="Once")  # its SDK raises nothing here
    assert event.type == "error"
    assert event.code == "start_failed"
    assert "the weights are damaged" in event.message


models()
text = chat()
for each in (client, cold):
    chat_stream(each, text)
    responses_stream(each)
asyncio.run(concurrently())
completions()
structured()
tools()
responses()
responses_tool()
embeddings()
errors()
failure_in_a_stream()
