"""LangChain's `langchain-openai`: chat, streams, batches, structured output, embeddings."""

import sys

from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel

URL, MODEL, EMBEDDER = sys.argv[1:4]
BASE = {"base_url": f"{URL}/v1", "api_key": "sk-any", "max_retries": 0}


class Animal(BaseModel):
    """An animal."""

    name: str
    legs: int


chat = ChatOpenAI(model=MODEL, max_tokens=16, temperature=0, **BASE)
answer = chat.invoke("Tell a story about a dog.")
assert answer.content
assert answer.usage_metadata["output_tokens"] > 0
assert "".join(c.content for c in chat.stream("Tell a story about a dog.")) == answer.content
assert [a.content for a in chat.batch(["Tell a story about a dog."] * 3)] == [answer.content] * 3
structured = ChatOpenAI(model=MODEL, max_tokens=200, temperature=0, **BASE).with_structured_output(
    Animal
)
assert isinstance(structured.invoke("Tell of a dog."), Animal)
assert OpenAI(model=MODEL, max_tokens=8, **BASE).invoke("Once upon a time")
embedder = OpenAIEmbeddings(model=EMBEDDER, check_embedding_ctx_length=False, **BASE)
assert len(embedder.embed_documents(["a dog", "a cat"])) == 2
