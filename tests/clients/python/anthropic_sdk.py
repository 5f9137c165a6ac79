"""The SDK `anthropic`: messages, streams, tools, counts of tokens, models, errors."""

import sys

import anthropic

URL, MODEL, _, COLD = sys.argv[1:5]
ASK = [{"role": "user", "content": "Tell a story about a dog."}]
TOOL = {
    "name": "count_legs",
    "description": "Count the legs of an animal.",
    "input_schema": {
        "type": "object",
        "properties": {"animal": {"type": "string", "maxLength": 8}},
        "required": ["animal"],
    },
}
# The SDK has no argument for the temperature any more. Two texts of llama.cpp are the same when
# neither uses what is left of the other.
SAME = {"temperature": 0, "cache_prompt": False}

client = anthropic.Anthropic(base_url=URL, api_key="sk-any", max_retries=0)
cold = anthropic.Anthropic(base_url=COLD, api_key="sk-any", max_retries=0)
asked = {"model": MODEL, "max_tokens": 16, "messages": ASK, "system": "Be brief."}

answer = client.messages.create(**asked, extra_body=SAME)
assert answer.model == MODEL
assert answer.stop_reason in ("max_tokens", "end_turn")
assert answer.usage.output_tokens > 0
[block] = answer.content

for each in (client, cold):
    with each.messages.stream(**asked, extra_body=SAME) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == block.text == final.content[0].text, (text, block.text)
    assert final.usage.output_tokens > 0

calling = {**asked, "max_tokens": 200, "tools": [TOOL], "tool_choice": {"type": "any"}}
answer = client.messages.create(**calling, extra_body=SAME)
assert answer.stop_reason == "tool_use"
[call] = [block for block in answer.content if block.type == "tool_use"]
assert call.name == "count_legs"
assert list(call.input) == ["animal"]
with client.messages.stream(**calling, extra_body=SAME) as stream:
    final = stream.get_final_message()
assert [block.input for block in final.content if block.type == "tool_use"] == [call.input]

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
    client.messages.create(model=MODEL, max_tokens=4, messages=ASK, extra_body={"temperature": "x"})
    raise AssertionError
except anthropic.BadRequestError as error:
    assert error.body["type"] == "error"
try:
    with cold.messages.stream(model="broken", max_tokens=4, messages=ASK) as stream:
        stream.get_final_message()
    raise AssertionError
except anthropic.APIError as error:
    assert "the weights are damaged" in str(error)
