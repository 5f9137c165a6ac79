"""`huggingface_hub.InferenceClient`: chat, streams, its OpenAI-like face, errors."""

import sys

from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

URL, MODEL, _, COLD = sys.argv[1:5]
ASK = [{"role": "user", "content": "Tell a story about a dog."}]
# Two texts of llama.cpp are the same when neither uses what is left of the other.
SAME = {"temperature": 0, "extra_body": {"cache_prompt": False}}

client = InferenceClient(base_url=f"{URL}/v1", api_key="sk-any")
answer = client.chat_completion(ASK, model=MODEL, max_tokens=16, **SAME)
text = answer.choices[0].message.content
assert text
for each in (client, InferenceClient(base_url=f"{COLD}/v1", api_key="sk-any")):
    stream = each.chat.completions.create(
        messages=ASK, model=MODEL, max_tokens=16, stream=True, **SAME
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == text
try:
    client.chat_completion(ASK, model="nobody")
    raise AssertionError
except HfHubHTTPError as error:
    assert error.response.status_code == 404
    assert "no model 'nobody'" in error.response.text
