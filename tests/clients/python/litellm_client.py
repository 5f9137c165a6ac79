"""LiteLLM as a client: chat, streams, tools, embeddings, Anthropic's messages, and its errors."""

import sys

import litellm

URL, MODEL, EMBEDDER, COLD = sys.argv[1:5]
KEY = {"api_key": "sk-any", "num_retries": 0}
BASE = {"api_base": f"{URL}/v1", **KEY}
ASK = [{"role": "user", "content": "Tell a story about a dog."}]
TOOL = {
    "type": "function",
    "function": {
        "name": "count_legs",
        "parameters": {
            "type": "object",
            "properties": {"animal": {"type": "string", "maxLength": 8}},
            "required": ["animal"],
        },
    },
}
# Two texts of llama.cpp are the same when neither uses what is left of the other.
SAME = {"temperature": 0, "extra_body": {"cache_prompt": False}}

litellm.suppress_debug_info = True
asked = {"model": f"openai/{MODEL}", "messages": ASK, "max_tokens": 16, **SAME}
answer = litellm.completion(**asked, **BASE)
text = answer.choices[0].message.content
assert text
assert answer.usage.completion_tokens > 0
for base in (BASE, {"api_base": f"{COLD}/v1", **KEY}):
    stream = litellm.completion(**asked, stream=True, **base)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == text

calling = {**asked, "max_tokens": 200, "tools": [TOOL], "tool_choice": "required"}
[call] = litellm.completion(**calling, **BASE).choices[0].message.tool_calls
assert call.function.name == "count_legs"
assert len(litellm.embedding(model=f"openai/{EMBEDDER}", input=["a dog"], **BASE).data) == 1

asked = {"model": f"anthropic/{MODEL}", "messages": ASK, "max_tokens": 16, "temperature": 0}
assert litellm.completion(**asked, api_base=URL, **KEY).choices[0].message.content
stream = litellm.completion(**asked, api_base=COLD, stream=True, **KEY)
assert "".join(chunk.choices[0].delta.content or "" for chunk in stream)

try:
    litellm.completion(model="openai/nobody", messages=ASK, **BASE)
    raise AssertionError
except litellm.NotFoundError as error:
    assert "no model 'nobody'" in str(error)
try:
    asked = {"model": "openai/broken", "messages": ASK, "stream": True}
    list(litellm.completion(**asked, api_base=f"{COLD}/v1", **KEY))
    raise AssertionError
except litellm.exceptions.MidStreamFallbackError as error:
    assert "the weights are damaged" in str(error)
