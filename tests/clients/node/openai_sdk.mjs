// The SDK `openai` for Node: chat, streams, structured output, tools, embeddings, errors.

import assert from "node:assert/strict";
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const [url, model, embedder, coldUrl] = process.argv.slice(2);
const messages = [{ role: "user", content: "Tell a story about a dog." }];
// Two texts of llama.cpp are the same when neither uses what is left of the other.
const same = { temperature: 0, cache_prompt: false };
const at = (base) => new OpenAI({ baseURL: `${base}/v1`, apiKey: "sk-any", maxRetries: 0 });
const client = at(url);
const cold = at(coldUrl);
const tools = [
  {
    type: "function",
    function: {
      name: "count_legs",
      parameters: {
        type: "object",
        properties: { animal: { type: "string", maxLength: 8 } },
        required: ["animal"],
      },
    },
  },
];

async function collect(stream) {
  const all = [];
  for await (const each of stream) all.push(each);
  return all;
}

const ids = (await collect(client.models.list())).map((each) => each.id);
assert(ids.includes(model));

const answer = await client.chat.completions.create({ model, messages, max_tokens: 16, ...same });
const text = answer.choices[0].message.content;
assert.equal(answer.model, model);
assert(text && answer.usage.completion_tokens > 0);

for (const each of [client, cold]) {
  const asked = { model, messages, max_tokens: 16, ...same };
  const helper = each.chat.completions.stream({
    ...asked,
    stream_options: { include_usage: true },
  });
  const final = await helper.finalChatCompletion();
  assert.equal(final.choices[0].message.content, text);
  assert(final.usage.completion_tokens > 0);
  const chunks = await collect(await each.chat.completions.create({ ...asked, stream: true }));
  assert.equal(chunks[0].choices[0].delta.role, "assistant");
  assert.equal(chunks.map((chunk) => chunk.choices[0].delta.content ?? "").join(""), text);
  const spoken = { model, input: "Once", max_output_tokens: 8, temperature: 0 };
  const told = each.responses.stream(spoken);
  const events = await collect(told);
  assert.equal(events[0].type, "response.created");
  // vLLM says so in the status alone.
  assert(["response.incomplete", "response.completed"].includes(events.at(-1).type));
  assert.equal(events.at(-1).response.status, "incomplete");
  const deltas = events.filter((event) => event.type === "response.output_text.delta");
  const { output_text: whole } = await told.finalResponse();
  assert(whole);
  assert.equal(deltas.map((event) => event.delta).join(""), whole);
}

const animal = z.object({ name: z.string().max(16), legs: z.number().int() });
const parsed = await client.chat.completions.parse({
  model,
  messages,
  max_tokens: 200,
  temperature: 0,
  response_format: zodResponseFormat(animal, "animal"),
});
animal.parse(parsed.choices[0].message.parsed);

const calling = { model, messages, max_tokens: 200, tools, tool_choice: "required", ...same };
const called = await client.chat.completions.create(calling);
assert.equal(called.choices[0].finish_reason, "tool_calls");
const [call] = called.choices[0].message.tool_calls;
assert.equal(call.function.name, "count_legs");
assert.deepEqual(Object.keys(JSON.parse(call.function.arguments)), ["animal"]);
const streamed = await client.chat.completions.stream(calling).finalChatCompletion();
assert.deepEqual(
  JSON.parse(streamed.choices[0].message.tool_calls[0].function.arguments),
  JSON.parse(call.function.arguments),
);

const input = ["a dog", "a cat"];
const coded = await client.embeddings.create({ model: embedder, input }); // in base64
const plain = await client.embeddings.create({ model: embedder, input, encoding_format: "float" });
assert.equal(coded.data.length, 2);
coded.data[0].embedding.forEach((value, at) => {
  assert(Math.abs(value - plain.data[0].embedding[at]) < 1e-3);
});

await assert.rejects(client.chat.completions.create({ model: "nobody", messages }), (error) => {
  assert(error instanceof OpenAI.NotFoundError);
  assert.equal(error.code, "model_not_found");
  return error.message.includes("no model 'nobody'");
});
await assert.rejects(
  cold.chat.completions.create({ model: "broken", messages, stream: true }).then(collect),
  (error) => error instanceof OpenAI.APIError && /the weights are damaged/.test(error.message),
);
