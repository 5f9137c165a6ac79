// A client of inference-service with grpc-js.

import assert from "node:assert";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const USAGE = "usage: example.mjs TARGET [QUIET_SECONDS=600] [CALLS=1200] [PING_SECONDS=10]";
const MODEL = "story-mini";
const TEXT = { model_id: MODEL, prompt: "Once upon a time" };
// It repeats itself, and so it ends at no earlier token.
const LONG = { ...TEXT, max_new_tokens: 500, temperature: 0, repetition_penalty: 0.1 };
const PATIENCE = 60; // seconds; a call that waits for a service and a cold model needs a deadline

const read = (name) => readFileSync(new URL(name, import.meta.url));

// Retries.
const CONFIG = read("service_config.json").toString();

// The contract, and the details of errors. `loadSync` reads the .proto files, without the details.
const definitions = loader.loadFileDescriptorSetFromBuffer(read("descriptors.binpb"), {
  keepCase: true, // Trap: by default the names are in camelCase, and others are dropped.
  longs: String, // Trap: by default an int64 is a Long, which JSON shows as three fields.
  enums: String, // by default numbers
  oneofs: true, // `response.event` is the name of the field that is set
});
const methods = definitions["inference_service.v1.ModelService"];
const { ModelService } = grpc.loadPackageDefinition(definitions).inference_service.v1;

// Trap: grpc-js reads `waitForReady` of the service config, and does nothing about it.
const waiting = (options, next) =>
  new grpc.InterceptingCall(next(options), {
    start(metadata, listener, start) {
      metadata.setOptions({ ...metadata.getOptions(), waitForReady: true });
      start(metadata, listener);
    },
  });

const connect = (target, options = {}) =>
  new ModelService(target, grpc.credentials.createInsecure(), {
    "grpc.service_config": CONFIG,
    interceptors: [waiting],
    ...options,
  });

// Trap: proto-loader drops names that it does not know, such as maxNewTokens, without a word.
function checked(method, request) {
  const names = methods[method].requestType.type.field.map((field) => field.name);
  const unknown = Object.keys(request).filter((name) => !names.includes(name));
  assert.deepEqual(unknown, [], `${method} has no such fields`);
  return request;
}

const deadlineIn = (seconds) => ({ deadline: Date.now() + seconds * 1000 });

// Makes a call with one answer.
const call = (client, method, request, seconds = PATIENCE) =>
  new Promise((resolve, reject) =>
    client[method](checked(method, request), deadlineIn(seconds), (error, answer) =>
      error ? reject(error) : resolve(answer),
    ),
  );

// Returns the reason of an error, or "" for one of the library's own, and the wrong fields.
function details(error) {
  const found = { reason: "", fields: [] };
  const [packed] = error.metadata?.get("grpc-status-details-bin") ?? [];
  if (packed === undefined) return found;
  for (const any of definitions["google.rpc.Status"].deserialize(packed).details) {
    const type = any.type_url.split("/").at(-1);
    const detail = definitions[type]?.deserialize(any.value);
    if (type === "google.rpc.ErrorInfo") found.reason = detail.reason;
    if (type === "google.rpc.BadRequest")
      found.fields = detail.field_violations.map((violation) => violation.field);
  }
  return found;
}

// Stops the model; one that does not run is stopped.
async function stop(client) {
  try {
    await call(client, "StopModel", { model_id: MODEL });
  } catch (error) {
    if (details(error).reason !== "CONTAINER_NOT_RUNNING") throw error;
  }
}

// Reads a whole stream: statuses while the model starts, chunks, one summary.
async function streamed(client) {
  const began = performance.now();
  const seen = { statuses: [], chunks: 0, text: "" };
  const request = { ...TEXT, max_new_tokens: 60, status_events: true };
  const stream = client.GenerateStream(checked("GenerateStream", request), deadlineIn(PATIENCE));
  for await (const response of stream) {
    switch (response.event) {
      case "status":
        if (seen.statuses.at(-1) !== response.status.model_state)
          seen.statuses.push(response.status.model_state);
        break;
      case "chunk":
        seen.first_chunk_seconds ??= secondsSince(began);
        seen.chunks += 1;
        seen.text += response.chunk.text;
        break;
      case "summary":
        seen.finish_reason = response.summary.finish_reason;
        break;
      default: // an event of a later version: undefined here, to be skipped
    }
  }
  assert(seen.finish_reason, "a stream without a summary has failed");
  return seen;
}

const secondsSince = (began) => Math.round(performance.now() - began) / 1000;

async function cold_start({ client }) {
  await stop(client);
  const { first_chunk_seconds, ...seen } = await streamed(client);
  assert(seen.statuses.includes("MODEL_STATE_STARTING"), "no status was STARTING");
  return seen;
}

async function stream({ client }) {
  const { chunks, first_chunk_seconds } = await streamed(client);
  return { chunks, first_chunk_seconds };
}

async function cancel({ client }) {
  const stream = client.GenerateStream(checked("GenerateStream", LONG), deadlineIn(PATIENCE));
  // Trap: to leave a `for await` does not cancel the call, which runs on.
  const responses = stream[Symbol.asyncIterator]();
  await responses.next(); // the first chunk
  stream.cancel();
  const began = performance.now();
  // Trap: the cancel is an event `error`, which ends the program where nobody listens.
  const code = await rest(responses).catch((error) => error.code);
  assert.equal(code, grpc.status.CANCELLED);
  for (;;) {
    const { model } = await call(client, "GetModel", { model_id: MODEL });
    const free_after_seconds = secondsSince(began);
    if (!model.active_request_count) return { code: grpc.status[code], free_after_seconds };
    assert(free_after_seconds < 2, "the request runs on");
  }
}

async function rest(responses) {
  while (!(await responses.next()).done);
}

async function deadline({ client }) {
  const error = await failure(call(client, "Generate", LONG, 0.05));
  // DEADLINE_PASSED of the service comes first, or else the library's own, without details.
  return { code: grpc.status[error.code], reason: details(error).reason };
}

async function violations({ client }) {
  const error = await failure(call(client, "Generate", { ...TEXT, temperature: 9, top_p: 7 }));
  return { code: grpc.status[error.code], ...details(error) };
}

const failure = (answer) =>
  answer.then(
    () => assert.fail("the call has succeeded"),
    (error) => error,
  );

async function quiet_watch({ client, target, quiet, interval }) {
  await call(client, "StartModel", { model_id: MODEL });
  const watcher = connect(target, {
    "grpc.keepalive_time_ms": interval * 1000,
    "grpc.keepalive_timeout_ms": 20_000,
    "grpc.keepalive_permit_without_calls": 1,
  });
  // A watch has no end, so it has no deadline.
  const watch = watcher.WatchModels(checked("WatchModels", { model_id: MODEL }));
  const changes = watch[Symbol.asyncIterator]();
  await until(changes, (change) => change.event === "snapshot_done");
  await sleep(quiet * 1000);
  await stop(client);
  await until(changes, ({ model }) => model?.state === "MODEL_STATE_STOPPED");
  watch.on("error", () => {}).cancel();
  watcher.close();
  return { alive: true };
}

// Reads a watch until the wanted change; it skips others, and events of a later version.
async function until(changes, wanted) {
  for (;;) {
    const { done, value } = await changes.next();
    assert(!done, "the watch has ended");
    if (wanted(value)) return;
  }
}

async function many({ target, calls }) {
  // Without retries, which would hide most refusals: the calls would take turns.
  const client = connect(target, { "grpc.enable_retries": 0 });
  const request = { ...TEXT, max_new_tokens: 1 };
  const answers = Array.from({ length: calls }, () => call(client, "Generate", request));
  const seen = { ok: 0, refused: {}, untyped: 0 };
  for (const { status, reason: error } of await Promise.allSettled(answers)) {
    const reason = status === "rejected" ? details(error).reason : null;
    if (reason === null) seen.ok += 1;
    else if (reason === "") seen.untyped += 1;
    else seen.refused[reason] = (seen.refused[reason] ?? 0) + 1;
  }
  client.close();
  assert.equal(seen.untyped, 0, "calls failed without a reason");
  return seen;
}

assert(process.argv.length >= 3 && process.argv.length <= 6, USAGE);
const [target, quiet = 600, calls = 1200, interval = 10] = process.argv.slice(2);
const client = connect(target);
const given = { client, target, quiet: +quiet, calls: +calls, interval: +interval };
for (const step of [cold_start, stream, cancel, deadline, violations, quiet_watch, many]) {
  const began = performance.now();
  const seen = await step(given);
  console.log(JSON.stringify({ step: step.name, ...seen, seconds: secondsSince(began) }));
}
client.close();
