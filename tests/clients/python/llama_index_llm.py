"""LlamaIndex: `OpenAILike` for chat and completion, and its embeddings."""

import sys

from llama_index.core.llms import ChatMessage
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike

URL, MODEL, EMBEDDER = sys.argv[1:4]

BASE = {"model": MODEL, "api_base": f"{URL}/v1", "api_key": "sk-any"}
llm = OpenAILike(**BASE, is_chat_model=True, max_tokens=16, temperature=0)
messages = [ChatMessage(role="user", content="Tell a story about a dog.")]
answer = llm.chat(messages)
assert answer.message.content
assert "".join(c.delta or "" for c in llm.stream_chat(messages)) == answer.message.content
completion = OpenAILike(**BASE, is_chat_model=False, max_tokens=8)
assert completion.complete("Once upon a time").text
embedder = OpenAILikeEmbedding(model_name=EMBEDDER, api_base=f"{URL}/v1", api_key="sk-any")
assert len(embedder.get_text_embedding_batch(["a dog", "a cat"])) == 2
