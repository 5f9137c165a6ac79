"""LlamaIndex: `OpenAILike` for chat, completion and tools, and its embeddings."""

import sys

import openai
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike

URL, MODEL, EMBEDDER, COLD = sys.argv[1:5]
KEY = "sk-any"
# Two texts of llama.cpp are the same when neither uses what is left of the other.
SAME = {"temperature": 0, "additional_kwargs": {"extra_body": {"cache_prompt": False}}}
MESSAGES = [ChatMessage(role="user", content="Tell a story about a dog.")]


def like(url: str = URL, model: str = MODEL, **more: object) -> OpenAILike:
    # By default it tries an error of the server ten times, which takes two minutes.
    return OpenAILike(model=model, api_base=f"{url}/v1", api_key=KEY, max_retries=0, **more)


def count_legs(animal: str) -> int:
    """Count the legs of an animal."""
    return len(animal)


llm = like(is_chat_model=True, max_tokens=16, **SAME)
answer = llm.chat(MESSAGES)
assert answer.message.content
for each in (llm, like(COLD, is_chat_model=True, max_tokens=16, **SAME)):
    parts = [part.delta or "" for part in each.stream_chat(MESSAGES)]
    assert "".join(parts) == answer.message.content
assert like(is_chat_model=False, max_tokens=8).complete("Once upon a time").text

caller = like(is_chat_model=True, is_function_calling_model=True, max_tokens=200, temperature=0)
tool = FunctionTool.from_defaults(count_legs)
answer = caller.chat_with_tools([tool], chat_history=MESSAGES, tool_required=True)
[call] = caller.get_tool_calls_from_response(answer)
assert call.tool_name == "count_legs"

embedder = OpenAILikeEmbedding(model_name=EMBEDDER, api_base=f"{URL}/v1", api_key=KEY)
assert len(embedder.get_text_embedding_batch(["a dog", "a cat"])) == 2

try:
    like(model="nobody", is_chat_model=True).chat(MESSAGES)
    raise AssertionError
except openai.NotFoundError as error:
    assert "no model 'nobody'" in str(error)
try:
    list(like(COLD, "broken", is_chat_model=True).stream_chat(MESSAGES))
    raise AssertionError
except openai.APIError as error:
    assert "the weights are damaged" in str(error)
