"""LiteLLM as a client: chat, streams, embeddings, Anthropic's messages, and its errors."""

import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "true"

import litellm

URL, MODEL, EMBEDDER = sys.argv[1:4]
BASE = {"api_base": f"{URL}/v1", "api_key": "sk-any", "num_retries": 0}
ASK = [{"role": "user", "content": "Tell a story about a dog."}]

answer = litellm.completion(
    model=f"openai/{MODEL}", messages=ASK, max_tokens=16, temperature=0, **BASE
)
text = answer.choices[0].message.content
assert text
stream = litellm.completion(
    model=f"openai/{MODEL}", messages=ASK, max_tokens=16, temperature=0, stream=True, **BASE
)
assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == text
assert len(litellm.embedding(model=f"openai/{EMBEDDER}", input=["a dog"], **BASE).data) == 1
answer = litellm.completion(
    model=f"anthropic/{MODEL}", messages=ASK, max_tokens=16, api_base=URL, api_key="sk-any"
)
assert answer.choices[0].message.content
try:
    litellm.completion(model="openai/nobody", messages=ASK, **BASE)
    raise AssertionError
except litellm.NotFoundError as error:
    assert "no model 'nobody'" in str(error)
