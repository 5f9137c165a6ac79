"""All that knows gRPC and Protobuf: methods, messages, statuses, and the server."""
