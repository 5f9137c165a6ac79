# A client of inference-service with the gem grpc.

require "json"

gem "grpc", "~> 1.51"
require "google/protobuf/well_known_types" # Trap: without it an Any has no `unpack`.
require "google/rpc/error_details_pb"
require "grpc"

# Written by `grpc_tools_ruby_protoc`; its folder has to be in the load path.
$LOAD_PATH.unshift(__dir__)
require "inference_service/v1/model_service_services_pb"

PB = InferenceService::V1
USAGE = "usage: example.rb TARGET [QUIET_SECONDS=600] [CALLS=1200] [PING_SECONDS=10]"
MODEL = "story-mini".freeze
TEXT = {model_id: MODEL, prompt: "Once upon a time"}.freeze
# It repeats itself, and so it ends at no earlier token.
LONG = TEXT.merge(max_new_tokens: 500, temperature: 0, repetition_penalty: 0.1).freeze
PATIENCE = 60 # seconds; a call that waits for a service and a cold model needs a deadline

# Retries, and calls that wait for a service that is not there yet.
CONFIG = File.read(File.join(__dir__, "service_config.json"))

def stub_to(target, **options)
  arguments = {"grpc.service_config" => CONFIG, **options}
  # `timeout` is the deadline of calls that have none of their own.
  PB::ModelService::Stub.new(
    target, :this_channel_is_insecure, channel_args: arguments, timeout: PATIENCE
  )
end

# Returns the options with which a quiet call lives behind a NAT, and a dead peer is noticed.
def keepalive(seconds)
  {
    "grpc.keepalive_time_ms" => (seconds * 1000).to_i,
    "grpc.keepalive_timeout_ms" => 20_000,
    "grpc.keepalive_permit_without_calls" => 1,
    # Trap: by default there are two pings, then none until the next data.
    "grpc.http2.max_pings_without_data" => 0
  }
end

# Returns the reason of an error, "" for one of the library's own, and the fields that are wrong.
def details(error)
  reason, fields = "", []
  error.to_rpc_status&.details&.each do |packed| # nil where there are no details
    info = packed.unpack(Google::Rpc::ErrorInfo)
    bad = packed.unpack(Google::Rpc::BadRequest)
    reason = info.reason if info
    fields = bad.field_violations.map(&:field) if bad
  end
  [reason, fields]
end

# Returns the error of a call that must fail.
def failure
  yield
rescue GRPC::BadStatus => error
  error
else
  raise "the call did not fail"
end

# Returns the name of a code: there is a class of errors for each, such as GRPC::InvalidArgument.
def code(error)
  error.class.name.delete_prefix("GRPC::")
end

def now
  Process.clock_gettime(Process::CLOCK_MONOTONIC)
end

def since(began)
  (now - began).round(3)
end

# Stops the model; one that does not run is stopped.
def stop(stub)
  stub.stop_model(PB::StopModelRequest.new(model_id: MODEL))
rescue GRPC::NotFound => error
  raise unless details(error).first == "CONTAINER_NOT_RUNNING"
end

# Reads a whole stream: statuses while the model starts, chunks, one summary.
def read(stub)
  began = now
  statuses, texts, first, summary = [], [], nil, nil
  request = PB::GenerateStreamRequest.new(**TEXT, max_new_tokens: 60, status_events: true)
  stub.generate_stream(request).each do |response|
    case response.event
    when :status
      # A symbol, or a number for a state of a later version.
      statuses << response.status.model_state.to_s
    when :chunk
      first ||= since(began)
      texts << response.chunk.text
    when :summary
      summary = response.summary
    end # an event of a later version: nil here, to be skipped
  end
  raise "a stream without a summary has failed" unless summary

  {
    statuses: statuses.chunk_while { |one, next_one| one == next_one }.map(&:first),
    chunks: texts.size,
    text: texts.join,
    finish_reason: summary.finish_reason.to_s,
    first_chunk_seconds: first
  }
end

def cold_start(stub)
  stop(stub)
  seen = read(stub)
  raise "the start was not seen" unless seen[:statuses].include?("MODEL_STATE_STARTING")

  seen.except(:first_chunk_seconds)
end

def stream(stub)
  read(stub).slice(:chunks, :first_chunk_seconds)
end

def active_requests(stub)
  stub.get_model(PB::GetModelRequest.new(model_id: MODEL)).model.active_request_count
end

def cancel(stub)
  # Trap: to leave the block of `each` ends the call, too, but then nothing tells its code.
  call = stub.generate_stream(PB::GenerateStreamRequest.new(**LONG), return_op: true)
  error = failure do
    call.execute.each { |response| call.cancel if response.event == :chunk }
  end
  raise error unless error.is_a?(GRPC::Cancelled)

  began = now
  raise "the request runs on" if since(began) > 2 while active_requests(stub) > 0
  {code: code(error), free_after_seconds: since(began)}
end

def deadline(stub)
  error = failure { stub.generate(PB::GenerateRequest.new(**LONG), deadline: Time.now + 0.05) }
  # The library's own deadline has no details; DEADLINE_TOO_SHORT comes from the service.
  {code: code(error), reason: details(error).first}
end

def violations(stub)
  error = failure { stub.generate(PB::GenerateRequest.new(**TEXT, temperature: 9, top_p: 7)) }
  reason, fields = details(error)
  {code: code(error), reason: reason, fields: fields}
end

def quiet_watch(stub, target, quiet, interval)
  stub.start_model(PB::StartModelRequest.new(model_id: MODEL))
  request = PB::WatchModelsRequest.new(model_id: MODEL)
  # A watch has no end, so it has no deadline.
  endless = {deadline: GRPC::Core::TimeConsts::INFINITE_FUTURE}
  stub_to(target, **keepalive(interval)).watch_models(request, **endless).each do |change|
    # Trap: an enumerator can be read once; all of the watch is in this block.
    if change.event == :snapshot_done
      sleep(quiet)
      stop(stub)
    end
    return {alive: true} if change.model&.state == :MODEL_STATE_STOPPED
  end
  raise "the watch has ended"
end

def many(target, calls)
  # Without retries, which would hide most refusals: the calls would take turns.
  stub = stub_to(target, "grpc.enable_retries" => 0)
  request = PB::GenerateRequest.new(**TEXT, max_new_tokens: 1)
  # A call blocks its thread: as many threads as calls.
  threads = Array.new(calls) do
    Thread.new do
      stub.generate(request) && nil
    rescue GRPC::BadStatus => error
      details(error).first
    end
  end
  refused = threads.filter_map(&:value).tally
  untyped = refused.delete("") || 0
  raise "#{untyped} calls failed without a reason" unless untyped.zero?

  {ok: calls - refused.values.sum, refused: refused, untyped: untyped}
end

def report(step, *arguments)
  began = now
  seen = send(step, *arguments)
  puts JSON.generate({step: step, **seen, seconds: since(began)})
  $stdout.flush
end

abort USAGE unless ARGV.size.between?(1, 4)
target, quiet, calls, interval = ARGV + %w[600 1200 10].drop(ARGV.size - 1)
stub = stub_to(target)
%i[cold_start stream cancel deadline violations].each { |step| report(step, stub) }
report(:quiet_watch, stub, target, quiet.to_f, interval.to_f)
report(:many, target, calls.to_i)
