"""`huggingface_hub.InferenceClient`: chat, streams, and its OpenAI-like face."""

import sys

from huggingface_hub import InferenceClient

URL, MODEL = sys.argv[1:3]
ASK = [{"role": "user", "content": "Tell a story about a dog."}]

client = InferenceClient(base_url=f"{URL}/v1", api_key="sk-any")
answer = client.chat_completion(ASK, model=MODEL, max_tokens=16, temperature=0)
text = answer.choices[0].message.content
assert text
stream = client.chat.completions.create(
    messages=ASK, model=MODEL, max_tokens=16, temperature=0, stream=True
)
assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == text
