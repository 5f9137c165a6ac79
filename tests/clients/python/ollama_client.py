"""Ollama's client `ollama`: chat, generate, embeddings, models."""

import sys

import ollama

URL, MODEL, EMBEDDER = sys.argv[1:4]
ASK = [{"role": "user", "content": "Tell a story about a dog."}]
FEW = {"num_predict": 16, "temperature": 0}

client = ollama.Client(host=URL)
assert MODEL in [model.model for model in client.list().models]
assert client.show(MODEL).capabilities
answer = client.chat(MODEL, ASK, options=FEW)
assert answer.message.content
assert answer.done
assert answer.eval_count > 0
parts = list(client.chat(MODEL, ASK, options=FEW, stream=True))
assert "".join(part.message.content for part in parts) == answer.message.content
assert parts[-1].done
assert parts[-1].done_reason in ("stop", "length")
assert client.generate(MODEL, "Once upon a time", options=FEW).response
assert "".join(p.response for p in client.generate(MODEL, "Once", options=FEW, stream=True))
schema = {"type": "object", "properties": {"legs": {"type": "integer"}}, "required": ["legs"]}
made = client.chat(MODEL, ASK, format=schema, options={"num_predict": 100, "temperature": 0})
assert "legs" in made.message.content
assert len(client.embed(EMBEDDER, ["a dog", "a cat"]).embeddings) == 2
assert MODEL in [model.model for model in client.ps().models]
try:
    client.chat("nobody", ASK)
    raise AssertionError
except ollama.ResponseError as error:
    assert error.status_code == 404
    assert "no model 'nobody'" in error.error
