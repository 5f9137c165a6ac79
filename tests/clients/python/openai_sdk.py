"""The SDK `openai`: synchronous, asynchronous, streams, structured output, tools, embeddings."""

import asyncio
import json
import sys

import openai
from pydantic import BaseModel

URL, MODEL, EMBEDDER = sys.argv[1:4]
KEY = "sk-any"
ASK = [{"role": "user", "content": "Tell a story about a dog."}]

client = openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)


class Animal(BaseModel):
    name: str
    legs: int


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
    answer = client.chat.completions.create(model=MODEL, messages=ASK, max_tokens=16, temperature=0)
    assert answer.model == MODEL
    assert answer.usage.completion_tokens > 0
    assert answer.choices[0].finish_reason in ("length", "stop")
    return answer.choices[0].message.content


def chat_stream(whole: str) -> None:
    stream = client.chat.completions.create(
        model=MODEL,
        messages=ASK,
        max_tokens=16,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole, (text, whole)
    assert chunks[-1].usage.completion_tokens > 0


async def concurrently(whole: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key=KEY) as many:
        answers = await asyncio.gather(
            *(
                many.chat.completions.create(
                    model=MODEL, messages=ASK, max_tokens=16, temperature=0
                )
                for _ in range(8)
            )
        )
        assert {answer.choices[0].message.content for answer in answers} == {whole}
        text = ""
        stream = await many.chat.completions.create(
            model=MODEL, messages=ASK, max_tokens=16, temperature=0, stream=True
        )
        async for chunk in stream:
            text += chunk.choices[0].delta.content or "" if chunk.choices else ""
        assert text == whole


def completions() -> None:
    answer = client.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=8)
    assert answer.choices[0].text
    stream = client.completions.create(
        model=MODEL, prompt="Once upon a time", max_tokens=8, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in stream)


def structured() -> None:
    answer = client.chat.completions.parse(
        model=MODEL, messages=ASK, max_tokens=200, temperature=0, response_format=Animal
    )
    assert isinstance(answer.choices[0].message.parsed, Animal)


def tools() -> None:
    asked = {"model": MODEL, "messages": ASK, "max_tokens": 200, "temperature": 0}
    answer = client.chat.completions.create(**asked, tools=[TOOL], tool_choice="required")
    [call] = answer.choices[0].message.tool_calls
    assert answer.choices[0].finish_reason == "tool_calls"
    assert call.function.name == "count_legs"
    arguments = json.loads(call.function.arguments)
    assert list(arguments) == ["animal"]
    stream = client.chat.completions.create(
        **asked, tools=[TOOL], tool_choice="required", stream=True
    )
    text = ""
    for chunk in stream:
        for choice in chunk.choices:
            for part in choice.delta.tool_calls or ():
                text += part.function.arguments or ""
    assert json.loads(text) == arguments
    messages = [
        *ASK,
        answer.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "4"},
    ]
    again = client.chat.completions.create(
        model=MODEL, messages=messages, max_tokens=16, tools=[TOOL]
    )
    assert again.choices[0].message.role == "assistant"


def responses() -> None:
    answer = client.responses.create(model=MODEL, input="Once upon a time", max_output_tokens=16)
    assert answer.output_text
    assert answer.usage.output_tokens > 0
    with client.responses.stream(
        model=MODEL, input="Once upon a time", max_output_tokens=16
    ) as stream:
        kinds = [event.type for event in stream]
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"


def embeddings() -> None:
    answer = client.embeddings.create(model=EMBEDDER, input=["a dog", "a cat"])
    assert len(answer.data) == 2
    assert len(answer.data[0].embedding) == len(answer.data[1].embedding) > 8
    assert answer.usage.prompt_tokens > 0


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
    stream = client.chat.completions.create(model=MODEL, messages=ASK, stream=True)
    next(iter(stream))
    stream.close()


models()
text = chat()
chat_stream(text)
asyncio.run(concurrently(text))
completions()
structured()
tools()
responses()
embeddings()
errors()
