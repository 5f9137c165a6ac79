"""LangChain's `langchain-openai`: chat, streams, batches, structured output, tools, embeddings."""

import sys
from typing import Annotated

import openai
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel, Field

URL, MODEL, EMBEDDER, COLD = sys.argv[1:5]
BASE = {"base_url": f"{URL}/v1", "api_key": "sk-any", "max_retries": 0}
# Two texts of llama.cpp are the same when neither uses what is left of the other.
SAME = {"temperature": 0, "extra_body": {"cache_prompt": False}}
ASK = "Tell a story about a dog."


class Animal(BaseModel):
    """An animal."""

    name: str = Field(max_length=16)
    legs: int = Field(ge=0, le=99)


@tool
def count_legs(animal: Annotated[str, Field(max_length=8)]) -> int:
    """Count the legs of an animal."""
    return len(animal)


chat = ChatOpenAI(model=MODEL, max_tokens=16, **SAME, **BASE)
answer = chat.invoke(ASK)
assert answer.content
assert answer.usage_metadata["output_tokens"] > 0
assert all(answer.content for answer in chat.batch([ASK] * 3))
cold = ChatOpenAI(model=MODEL, max_tokens=16, **SAME, **{**BASE, "base_url": f"{COLD}/v1"})
for each in (chat, cold):
    assert "".join(part.content for part in each.stream(ASK)) == answer.content

long = ChatOpenAI(model=MODEL, max_tokens=200, temperature=0, **BASE)
assert isinstance(long.with_structured_output(Animal).invoke("Tell of a dog."), Animal)
by_tool = long.with_structured_output(Animal, method="function_calling")
assert isinstance(by_tool.invoke(ASK), Animal)
[call] = long.bind_tools([count_legs], tool_choice="any").invoke(ASK).tool_calls
assert call["name"] == "count_legs"
assert list(call["args"]) == ["animal"]

assert OpenAI(model=MODEL, max_tokens=8, temperature=0, **BASE).invoke("Once upon a time")
embedder = OpenAIEmbeddings(model=EMBEDDER, check_embedding_ctx_length=False, **BASE)
assert len(embedder.embed_documents(["a dog", "a cat"])) == 2

try:
    ChatOpenAI(model="nobody", **BASE).invoke(ASK)
    raise AssertionError
except openai.NotFoundError as error:
    assert "no model 'nobody'" in str(error)
try:
    list(ChatOpenAI(model="broken", **{**BASE, "base_url": f"{COLD}/v1"}).stream(ASK))
    raise AssertionError
except openai.APIError as error:
    assert "the weights are damaged" in str(error)
