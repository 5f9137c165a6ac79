package example;

import com.google.gson.Gson;
import inference_service.v1.GenerateRequest;
import inference_service.v1.GenerateResponse;
import inference_service.v1.GenerateStreamRequest;
import inference_service.v1.GenerateStreamResponse;
import inference_service.v1.GetModelRequest;
import inference_service.v1.ModelServiceGrpc;
import inference_service.v1.ModelServiceGrpc.ModelServiceBlockingStub;
import inference_service.v1.ModelState;
import inference_service.v1.StartModelRequest;
import inference_service.v1.StopModelRequest;
import inference_service.v1.WatchModelsRequest;
import inference_service.v1.WatchModelsResponse;
import io.grpc.Context;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.Reader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;

/** A client of inference-service with grpc-java. */
public final class Example {
  private static final String USAGE =
      "usage: example.jar TARGET [QUIET_SECONDS=600] [CALLS=1200] [PING_SECONDS=10]";
  private static final String MODEL = "story-mini";
  private static final String PROMPT = "Once upon a time";
  // Seconds. A call that waits for a service and a cold model needs a deadline.
  private static final long PATIENCE = 60;
  private static final Gson JSON = new Gson();

  private final ModelServiceBlockingStub stub;

  private Example(ManagedChannel channel) {
    this.stub = ModelServiceGrpc.newBlockingStub(channel);
  }

  public static void main(String[] arguments) throws Exception {
    if (arguments.length < 1 || arguments.length > 4) {
      System.err.println(USAGE);
      System.exit(2);
    }
    String target = arguments[0];
    double quiet = arguments.length > 1 ? Double.parseDouble(arguments[1]) : 600;
    int calls = arguments.length > 2 ? Integer.parseInt(arguments[2]) : 1200;
    long interval = arguments.length > 3 ? Long.parseLong(arguments[3]) : 10;

    ManagedChannel channel = channelTo(target, serviceConfig()).build();
    try {
      Example example = new Example(channel);
      report("cold_start", example::coldStart);
      report("stream", example::stream);
      report("cancel", example::cancel);
      report("deadline", example::deadline);
      report("violations", example::violations);
      report("quiet_watch", () -> example.quietWatch(target, quiet, interval));
      report("many", () -> many(target, calls));
      report("health", () -> example.health(target));
    } finally {
      channel.shutdownNow();
    }
  }

  private static void report(String name, Callable<Map<String, Object>> step) throws Exception {
    long began = System.nanoTime();
    Map<String, Object> line = line("step", name);
    line.putAll(step.call());
    line.put("seconds", secondsSince(began));
    System.out.println(JSON.toJson(line));
  }

  /** Prepares a channel. Its calls retry, and wait for the service, as the config says. */
  private static ManagedChannelBuilder<?> channelTo(String target, Map<String, ?> config) {
    return Grpc.newChannelBuilder(target, InsecureChannelCredentials.create())
        .defaultServiceConfig(config);
  }

  /** Reads the service config, which the library wants as a map and not as a text. */
  @SuppressWarnings("unchecked")
  private static Map<String, Object> serviceConfig() throws IOException {
    var file = Example.class.getResourceAsStream("/service_config.json");
    try (Reader reader = new InputStreamReader(file, StandardCharsets.UTF_8)) {
      return JSON.fromJson(reader, Map.class);
    }
  }

  /** Returns the stub for one call. Trap: its deadline counts from now on, not from the call. */
  private ModelServiceBlockingStub patient() {
    return stub.withDeadlineAfter(PATIENCE, TimeUnit.SECONDS);
  }

  private Map<String, Object> coldStart() {
    stop();
    Seen seen = read();
    check(seen.statuses.contains("MODEL_STATE_STARTING"), "the start was not seen");
    Map<String, Object> line = line("statuses", seen.statuses);
    line.put("chunks", seen.chunks);
    line.put("text", seen.text.toString());
    line.put("finish_reason", seen.finishReason.name());
    return line;
  }

  private Map<String, Object> stream() {
    Seen seen = read();
    Map<String, Object> line = line("chunks", seen.chunks);
    line.put("first_chunk_seconds", seen.firstChunkSeconds);
    return line;
  }

  /** Reads a whole stream. */
  private Seen read() {
    Seen seen = new Seen();
    var request = GenerateStreamRequest.newBuilder().setModelId(MODEL).setPrompt(PROMPT);
    request.setMaxNewTokens(60).setStatusEvents(true);
    patient().generateStream(request.build()).forEachRemaining(seen::add);
    check(seen.finishReason != null, "a stream without a summary has failed");
    return seen;
  }

  private Map<String, Object> cancel() throws Exception {
    var request = GenerateStreamRequest.newBuilder().setModelId(MODEL).setPrompt(PROMPT);
    // It repeats itself, and so it ends at no earlier token.
    request.setMaxNewTokens(500).setTemperature(0).setRepetitionPenalty(0.1);
    // Trap: the call of an iterator that is dropped runs on. Only its context can cancel it.
    Context.CancellableContext context = Context.current().withCancellation();
    Iterator<GenerateStreamResponse> responses =
        context.call(() -> patient().generateStream(request.build()));
    while (!responses.next().hasChunk()) {}
    context.cancel(null);

    long began = System.nanoTime();
    while (activeRequests() > 0) {
      check(secondsSince(began) < 2, "the request runs on");
    }
    double freeAfter = secondsSince(began);
    var error = failure(() -> responses.forEachRemaining(response -> {}));
    check(error.getStatus().getCode() == Status.Code.CANCELLED, error.getMessage());
    Map<String, Object> line = line("code", error.getStatus().getCode());
    line.put("free_after_seconds", freeAfter);
    return line;
  }

  private int activeRequests() {
    var request = GetModelRequest.newBuilder().setModelId(MODEL).build();
    return stub.getModel(request).getModel().getActiveRequestCount();
  }

  private Map<String, Object> deadline() throws Exception {
    var request = GenerateRequest.newBuilder().setModelId(MODEL).setPrompt(PROMPT);
    request.setMaxNewTokens(500).setTemperature(0).setRepetitionPenalty(0.1);
    var hasty = stub.withDeadlineAfter(50, TimeUnit.MILLISECONDS);
    var error = failure(() -> hasty.generate(request.build()));
    // The library's own deadline has no details; DEADLINE_TOO_SHORT comes from the service.
    Map<String, Object> line = line("code", error.getStatus().getCode());
    line.put("reason", Details.of(error).reason());
    return line;
  }

  private Map<String, Object> violations() throws Exception {
    var request = GenerateRequest.newBuilder().setModelId(MODEL).setPrompt(PROMPT);
    request.setTemperature(9).setTopP(7);
    var error = failure(() -> patient().generate(request.build()));
    Details details = Details.of(error);
    Map<String, Object> line = line("code", error.getStatus().getCode());
    line.put("reason", details.reason());
    line.put("fields", details.fields());
    return line;
  }

  private Map<String, Object> quietWatch(String target, double quiet, long interval)
      throws Exception {
    start();
    ManagedChannel watching =
        channelTo(target, serviceConfig())
            .keepAliveTime(interval, TimeUnit.SECONDS) // less than 10 s counts as 10 s
            .keepAliveTimeout(20, TimeUnit.SECONDS)
            .keepAliveWithoutCalls(true)
            .build();
    try {
      // A watch has no end, so it has no deadline.
      var request = WatchModelsRequest.newBuilder().setModelId(MODEL).build();
      Iterator<WatchModelsResponse> changes =
          ModelServiceGrpc.newBlockingStub(watching).watchModels(request);
      while (!changes.next().hasSnapshotDone()) {}
      Thread.sleep((long) (quiet * 1000));
      stop();
      // Where the watch has ended meanwhile, next() throws its status.
      while (changes.next().getModel().getState() != ModelState.MODEL_STATE_STOPPED) {}
      return line("alive", true);
    } finally {
      watching.shutdownNow();
    }
  }

  private void start() {
    patient().startModel(StartModelRequest.newBuilder().setModelId(MODEL).build());
  }

  /** Stops the model; one that does not run is stopped. */
  private void stop() {
    try {
      patient().stopModel(StopModelRequest.newBuilder().setModelId(MODEL).build());
    } catch (StatusRuntimeException error) {
      if (error.getStatus().getCode() != Status.Code.NOT_FOUND) {
        throw error;
      }
    }
  }

  private static Map<String, Object> many(String target, int calls) throws Exception {
    // Without retries, which would hide most refusals: the calls would take turns.
    ManagedChannel channel = channelTo(target, serviceConfig()).disableRetry().build();
    try {
      return line(calls, pending(channel, calls));
    } finally {
      channel.shutdownNow();
    }
  }

  private static List<Future<GenerateResponse>> pending(ManagedChannel channel, int calls) {
    var request = GenerateRequest.newBuilder().setModelId(MODEL).setPrompt(PROMPT);
    var patient =
        ModelServiceGrpc.newFutureStub(channel).withDeadlineAfter(PATIENCE, TimeUnit.SECONDS);
    List<Future<GenerateResponse>> pending = new ArrayList<>();
    for (int call = 0; call < calls; call++) {
      pending.add(patient.generate(request.setMaxNewTokens(1).build()));
    }
    return pending;
  }

  private static Map<String, Object> line(int calls, List<Future<GenerateResponse>> pending)
      throws Exception {
    Map<String, Integer> refused = new TreeMap<>();
    for (Future<GenerateResponse> answer : pending) {
      try {
        answer.get();
      } catch (ExecutionException error) {
        refused.merge(Details.of(error).reason(), 1, Integer::sum);
        calls--;
      }
    }
    Integer untyped = refused.remove("");
    check(untyped == null, untyped + " calls failed without a reason");
    Map<String, Object> line = line("ok", calls);
    line.put("refused", refused);
    line.put("untyped", 0);
    return line;
  }

  /** Calls a model that does not run, on a channel that calls only where the model is SERVING. */
  private Map<String, Object> health(String target) throws Exception {
    stop();
    Map<String, Object> config = serviceConfig();
    // Trap: pick_first, the policy by default, checks no health; and without grpc-services in the
    // class path there is no check and no error.
    config.put("loadBalancingConfig", List.of(Map.of("round_robin", Map.of())));
    config.put("healthCheckConfig", Map.of("serviceName", MODEL));
    ManagedChannel checking = channelTo(target, config).build();
    try {
      var request = GenerateRequest.newBuilder().setModelId(MODEL).setPrompt(PROMPT);
      var patient = ModelServiceGrpc.newBlockingStub(checking);
      var answer =
          patient
              .withDeadlineAfter(PATIENCE, TimeUnit.SECONDS)
              .generate(request.setMaxNewTokens(20).build());
      return line("text", answer.getGeneratedText());
    } finally {
      checking.shutdownNow();
    }
  }

  /** Makes a call that must fail, and returns its error. */
  private static StatusRuntimeException failure(Runnable call) {
    try {
      call.run();
    } catch (StatusRuntimeException error) {
      return error;
    }
    throw new IllegalStateException("the call did not fail");
  }

  private static void check(boolean right, String otherwise) {
    if (!right) {
      throw new IllegalStateException(otherwise);
    }
  }

  static double secondsSince(long began) {
    return TimeUnit.NANOSECONDS.toMillis(System.nanoTime() - began) / 1000.0;
  }

  private static Map<String, Object> line(String name, Object value) {
    Map<String, Object> line = new LinkedHashMap<>();
    line.put(name, value);
    return line;
  }
}
