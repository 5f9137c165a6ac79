// A client of inference-service with gRPC for C++.

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <google/protobuf/struct.pb.h>
#include <google/protobuf/util/json_util.h>
#include <grpcpp/grpcpp.h>

#include "errors.h"
#include "inference_service/v1/model_service.grpc.pb.h"
#include "service_config.h"

namespace pb = inference_service::v1;
using Clock = std::chrono::steady_clock;
using Line = google::protobuf::Struct;
using Stub = pb::ModelService::Stub;

namespace {

constexpr char kUsage[] =
    "usage: example TARGET [QUIET_SECONDS=600] [CALLS=1200] [PING_SECONDS=10]";
constexpr char kModel[] = "story-mini";
constexpr char kPrompt[] = "Once upon a time";
// A call that waits for a service and a cold model needs a deadline.
constexpr std::chrono::seconds kPatience{60};

void Check(bool right, const std::string& otherwise) {
  if (!right) throw std::runtime_error(otherwise);
}

void Check(const grpc::Status& status) { Check(status.ok(), status.error_message()); }

double SecondsSince(Clock::time_point began) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - began).count() / 1e3;
}

google::protobuf::Value& Field(Line& line, const std::string& name) {
  return (*line.mutable_fields())[name];
}

void Add(Line& line, const std::string& name, const std::vector<std::string>& words) {
  auto* list = Field(line, name).mutable_list_value();
  for (const auto& word : words) list->add_values()->set_string_value(word);
}

void Report(const std::string& name, const std::function<void(Line&)>& step) {
  const auto began = Clock::now();
  Line line;
  Field(line, "step").set_string_value(name);
  step(line);
  Field(line, "seconds").set_number_value(SecondsSince(began));
  std::string json;
  Check(google::protobuf::util::MessageToJsonString(line, &json).ok(), "this is no JSON");
  std::cout << json << std::endl;
}

// Returns arguments of a channel. Its calls retry, and wait for the service, as the config says.
grpc::ChannelArguments Arguments() {
  grpc::ChannelArguments arguments;
  arguments.SetServiceConfigJSON(kServiceConfig);
  return arguments;
}

// Trap: channels with the same target and arguments share a connection.
std::unique_ptr<Stub> StubTo(const std::string& target, const grpc::ChannelArguments& arguments) {
  return pb::ModelService::NewStub(
      grpc::CreateCustomChannel(target, grpc::InsecureChannelCredentials(), arguments));
}

grpc::ChannelArguments Keepalive(double seconds) {
  auto arguments = Arguments();
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, static_cast<int>(seconds * 1000));
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  // Trap: by default there are two pings, then none until the next data.
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  return arguments;
}

// The context of one call. Trap: the next call needs another one.
struct Patient : grpc::ClientContext {
  Patient() { set_deadline(std::chrono::system_clock::now() + kPatience); }
};

template <typename Request>
Request Text(int tokens) {
  Request request;
  request.set_model_id(kModel);
  request.set_prompt(kPrompt);
  request.set_max_new_tokens(tokens);
  return request;
}

// A text that repeats itself, and so ends at no earlier token.
template <typename Request>
Request LongText() {
  auto request = Text<Request>(500);
  request.set_temperature(0);
  request.set_repetition_penalty(0.1);
  return request;
}

// Stops the model; one that does not run is stopped.
void Stop(Stub& stub) {
  Patient context;
  pb::StopModelRequest request;
  pb::StopModelResponse response;
  request.set_model_id(kModel);
  const auto status = stub.StopModel(&context, request, &response);
  if (Details(status).reason != "CONTAINER_NOT_RUNNING") Check(status);
}

struct Seen {
  std::vector<std::string> statuses;
  std::string text;
  int chunks = 0;
  double first_chunk_seconds = 0;
  std::string finish_reason;
};

// Reads a whole stream: statuses while the model starts, chunks, one summary.
Seen Read(Stub& stub) {
  const auto began = Clock::now();
  Seen seen;
  Patient context;
  auto request = Text<pb::GenerateStreamRequest>(60);
  request.set_status_events(true);
  const auto reader = stub.GenerateStream(&context, request);
  pb::GenerateStreamResponse response;
  while (reader->Read(&response)) {
    switch (response.event_case()) {
      case response.kStatus: {
        const auto& state = pb::ModelState_Name(response.status().model_state());
        if (seen.statuses.empty() || seen.statuses.back() != state) seen.statuses.push_back(state);
        break;
      }
      case response.kChunk:
        if (seen.chunks++ == 0) seen.first_chunk_seconds = SecondsSince(began);
        seen.text += response.chunk().text();
        break;
      case response.kSummary:
        seen.finish_reason = pb::FinishReason_Name(response.summary().finish_reason());
        break;
      default:
        break;  // an event of a later version: EVENT_NOT_SET here, to be skipped
    }
  }
  Check(reader->Finish());  // Read is false at the end of a text, and at an error
  Check(!seen.finish_reason.empty(), "a stream without a summary has failed");
  return seen;
}

void ColdStart(Stub& stub, Line& line) {
  Stop(stub);
  const auto seen = Read(stub);
  const auto& states = seen.statuses;
  Check(std::find(states.begin(), states.end(), "MODEL_STATE_STARTING") != states.end(),
        "the start was not seen");
  Add(line, "statuses", states);
  Field(line, "chunks").set_number_value(seen.chunks);
  Field(line, "text").set_string_value(seen.text);
  Field(line, "finish_reason").set_string_value(seen.finish_reason);
}

void Stream(Stub& stub, Line& line) {
  const auto seen = Read(stub);
  Field(line, "chunks").set_number_value(seen.chunks);
  Field(line, "first_chunk_seconds").set_number_value(seen.first_chunk_seconds);
}

int ActiveRequests(Stub& stub) {
  grpc::ClientContext context;
  pb::GetModelRequest request;
  pb::GetModelResponse response;
  request.set_model_id(kModel);
  Check(stub.GetModel(&context, request, &response));
  return response.model().active_request_count();
}

// Returns the status of a cancelled stream, for which all that had come has to be read.
template <typename Response>
grpc::Status Drained(grpc::ClientReader<Response>& reader) {
  Response response;
  while (reader.Read(&response)) {
  }
  return reader.Finish();
}

void Cancel(Stub& stub, Line& line) {
  Patient context;
  const auto reader = stub.GenerateStream(&context, LongText<pb::GenerateStreamRequest>());
  pb::GenerateStreamResponse response;
  while (reader->Read(&response) && !response.has_chunk()) {
  }
  // Trap: a reader that is dropped runs on until its context is dropped, too.
  context.TryCancel();

  const auto began = Clock::now();
  while (ActiveRequests(stub) > 0) Check(SecondsSince(began) < 2, "the request runs on");
  Field(line, "free_after_seconds").set_number_value(SecondsSince(began));
  const auto status = Drained(*reader);
  Check(status.error_code() == grpc::StatusCode::CANCELLED, "the call was not cancelled");
  Field(line, "code").set_string_value(Name(status.error_code()));
}

void Deadline(Stub& stub, Line& line) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(50));
  pb::GenerateResponse response;
  const auto status = stub.Generate(&context, LongText<pb::GenerateRequest>(), &response);
  Check(!status.ok(), "the text came before the deadline");
  Field(line, "code").set_string_value(Name(status.error_code()));
  // The library's own deadline has no details; DEADLINE_TOO_SHORT comes from the service.
  Field(line, "reason").set_string_value(Details(status).reason);
}

void Violations(Stub& stub, Line& line) {
  Patient context;
  auto request = Text<pb::GenerateRequest>(1);
  request.set_temperature(9);
  request.set_top_p(7);
  pb::GenerateResponse response;
  const auto status = stub.Generate(&context, request, &response);
  Check(!status.ok(), "the service took the parameters");
  const Details details(status);
  Field(line, "code").set_string_value(Name(status.error_code()));
  Field(line, "reason").set_string_value(details.reason);
  Add(line, "fields", details.fields);
}

void Start(Stub& stub) {
  Patient context;
  pb::StartModelRequest request;
  pb::StartModelResponse response;
  request.set_model_id(kModel);
  Check(stub.StartModel(&context, request, &response));
}

using Changes = grpc::ClientReader<pb::WatchModelsResponse>;

pb::WatchModelsResponse Next(Changes& changes) {
  pb::WatchModelsResponse change;
  if (!changes.Read(&change)) throw std::runtime_error(changes.Finish().error_message());
  return change;
}

void QuietWatch(Stub& stub, const std::string& target, double quiet, double interval, Line& line) {
  Start(stub);
  const auto watching = StubTo(target, Keepalive(interval));
  grpc::ClientContext context;  // a watch has no end, so it has no deadline
  pb::WatchModelsRequest request;
  request.set_model_id(kModel);
  const auto changes = watching->WatchModels(&context, request);
  while (!Next(*changes).has_snapshot_done()) {
  }
  std::this_thread::sleep_for(std::chrono::duration<double>(quiet));
  Stop(stub);
  while (Next(*changes).model().state() != pb::MODEL_STATE_STOPPED) {
  }
  Field(line, "alive").set_bool_value(true);
  context.TryCancel();
  Drained(*changes);
}

// Calls that run at once; each has its own context and response until its answer has come.
class Many {
 public:
  Many(Stub& stub, int calls) : calls_(calls) {
    for (int call = 0; call < calls; ++call) {
      auto& [context, response] = pending_.emplace_back();
      stub.async()->Generate(&context, &request_, &response,
                             [this](grpc::Status status) { Ended(status); });
    }
  }

  // Waits until all have ended, and returns the reasons of those that failed.
  std::map<std::string, int> Refused() {
    std::unique_lock lock(mutex_);
    all_ended_.wait(lock, [this] { return ended_ == calls_; });
    return refused_;
  }

 private:
  void Ended(const grpc::Status& status) {
    std::lock_guard lock(mutex_);
    if (!status.ok()) ++refused_[Details(status).reason];
    if (++ended_ == calls_) all_ended_.notify_one();
  }

  const int calls_;
  const pb::GenerateRequest request_ = Text<pb::GenerateRequest>(1);
  std::deque<std::pair<Patient, pb::GenerateResponse>> pending_;
  std::mutex mutex_;
  std::condition_variable all_ended_;
  std::map<std::string, int> refused_;
  int ended_ = 0;
};

void CallMany(const std::string& target, int calls, Line& line) {
  // Without retries, which would hide most refusals: the calls would take turns.
  auto arguments = Arguments();
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  auto refused = Many(*StubTo(target, arguments), calls).Refused();
  const int untyped = refused[""];
  Check(untyped == 0, std::to_string(untyped) + " calls failed without a reason");
  refused.erase("");
  auto& reasons = *Field(line, "refused").mutable_struct_value();
  for (const auto& [reason, count] : refused) {
    Field(reasons, reason).set_number_value(count);
    calls -= count;
  }
  Field(line, "ok").set_number_value(calls);
  Field(line, "untyped").set_number_value(untyped);
}

}  // namespace

int main(int count, char** words) try {
  Check(count > 1 && count < 6, kUsage);
  const std::string target = words[1];
  const double quiet = count > 2 ? std::stod(words[2]) : 600;
  const int calls = count > 3 ? std::stoi(words[3]) : 1200;
  const double interval = count > 4 ? std::stod(words[4]) : 10;

  const auto stub = StubTo(target, Arguments());
  Report("cold_start", [&](Line& line) { ColdStart(*stub, line); });
  Report("stream", [&](Line& line) { Stream(*stub, line); });
  Report("cancel", [&](Line& line) { Cancel(*stub, line); });
  Report("deadline", [&](Line& line) { Deadline(*stub, line); });
  Report("violations", [&](Line& line) { Violations(*stub, line); });
  Report("quiet_watch", [&](Line& line) { QuietWatch(*stub, target, quiet, interval, line); });
  Report("many", [&](Line& line) { CallMany(target, calls, line); });
  return 0;
} catch (const std::exception& error) {
  std::cerr << error.what() << std::endl;
  return 1;
}
