// The AI SDK `ai` with `@ai-sdk/openai-compatible`: text, streams, objects, tools, embeddings.

import assert from "node:assert/strict";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, embedMany, generateText, Output, streamText, tool } from "ai";
import { z } from "zod";

const [url, model, embedder, coldUrl] = process.argv.slice(2);
const prompt = "Tell a story about a dog.";
const at = (base) =>
  createOpenAICompatible({
    name: "service",
    baseURL: `${base}/v1`,
    apiKey: "sk-any",
    includeUsage: true,
    supportsStructuredOutputs: true,
  });
// Two texts of llama.cpp are the same when neither uses what is left of the other.
const providerOptions = { service: { cache_prompt: false } };
const asked = { prompt, maxOutputTokens: 16, temperature: 0, maxRetries: 0, providerOptions };
const service = at(url);

const answer = await generateText({ model: service(model), ...asked });
assert(answer.text && answer.usage.outputTokens > 0);
for (const each of [service, at(coldUrl)]) {
  const stream = streamText({ model: each(model), ...asked });
  assert.equal(await stream.text, answer.text);
  assert((await stream.usage).outputTokens > 0);
}

const schema = z.object({ name: z.string().max(16), legs: z.number().int() });
const made = await generateText({
  model: service(model),
  ...asked,
  maxOutputTokens: 200,
  output: Output.object({ schema }),
});
schema.parse(made.output);

const tools = {
  count_legs: tool({
    description: "Count the legs of an animal.",
    inputSchema: z.object({ animal: z.string().max(8) }),
  }),
};
const calling = { ...asked, maxOutputTokens: 200, tools, toolChoice: "required" };
const { toolCalls } = await generateText({ model: service(model), ...calling });
assert.equal(toolCalls.length, 1);
assert.equal(toolCalls[0].toolName, "count_legs");
assert.deepEqual(Object.keys(toolCalls[0].input), ["animal"]);
const streamed = await streamText({ model: service(model), ...calling }).toolCalls;
assert.deepEqual(
  streamed.map((call) => call.input),
  toolCalls.map((call) => call.input),
);

const toolChoice = { type: "tool", toolName: "count_legs" };
const named = await generateText({ model: service(model), ...calling, toolChoice });
assert.equal(named.toolCalls[0].toolName, "count_legs");

const { embeddings } = await embedMany({
  model: service.embeddingModel(embedder),
  values: ["a dog", "a cat"],
});
assert.equal(embeddings.length, 2);
assert(embeddings[0].length > 8);

await assert.rejects(generateText({ model: service("nobody"), ...asked }), (error) => {
  assert(APICallError.isInstance(error));
  assert.equal(error.statusCode, 404);
  assert.equal(error.isRetryable, false);
  return error.message.includes("no model 'nobody'");
});
const errors = [];
const broken = streamText({
  model: at(coldUrl)("broken"),
  ...asked,
  onError: ({ error }) => errors.push(error),
});
await broken.consumeStream();
assert.match(JSON.stringify(errors), /the weights are damaged/);
