"""The SDK `anthropic`: messages, streams, counts of tokens, models, errors."""

import sys

import anthropic

URL, MODEL = sys.argv[1:3]
ASK = [{"role": "user", "content": "Tell a story about a dog."}]

GREEDY = {"temperature": 0}  # which the SDK has no argument for any more

client = anthropic.Anthropic(base_url=URL, api_key="sk-any", max_retries=0)

answer = client.messages.create(
    model=MODEL, max_tokens=16, messages=ASK, system="Be brief.", extra_body=GREEDY
)
assert answer.model == MODEL
assert answer.stop_reason in ("max_tokens", "end_turn")
assert answer.usage.output_tokens > 0
[block] = answer.content

with client.messages.stream(
    model=MODEL, max_tokens=16, messages=ASK, system="Be brief.", extra_body=GREEDY
) as stream:
    text = "".join(stream.text_stream)
    final = stream.get_final_message()
assert text == block.text == final.content[0].text, (text, block.text)
assert final.usage.output_tokens > 0

count = client.messages.count_tokens(model=MODEL, messages=ASK)
assert count.input_tokens > 3

assert MODEL in [model.id for model in client.models.list()]
assert client.models.retrieve(MODEL).id == MODEL

try:
    client.messages.create(model="nobody", max_tokens=4, messages=ASK)
    raise AssertionError
except anthropic.NotFoundError as error:
    assert error.body["error"]["type"] == "not_found_error"
    assert "no model 'nobody'" in str(error)
try:
    client.messages.create(model=MODEL, max_tokens=4, messages=[])
    raise AssertionError
except anthropic.BadRequestError as error:
    assert error.body["type"] == "error"
