// What is in the error of a call.

#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "inference_service/v1/error_code.pb.h"

// The reason of an error, "" for one of the library's own, and the fields that are wrong.
struct Details {
  std::string reason;
  std::vector<std::string> fields;

  explicit Details(const grpc::Status& error) {
    google::rpc::Status status;
    if (!status.ParseFromString(error.error_details()))
      throw std::runtime_error("the details cannot be read");
    google::rpc::ErrorInfo info;
    google::rpc::BadRequest bad;
    for (const auto& packed : status.details()) {
      if (packed.UnpackTo(&info)) reason = info.reason();
      if (packed.UnpackTo(&bad))
        for (const auto& violation : bad.field_violations()) fields.push_back(violation.field());
    }
  }
};

// Returns the name of a code. The library has none, but the contract has the same numbers.
inline std::string Name(grpc::StatusCode code) {
  using namespace inference_service::v1;
  return ErrorCode_Name(static_cast<ErrorCode>(code)).substr(sizeof "ERROR_CODE_" - 1);
}
