"""The command `inference-service`, and `python -m inference_service`."""

import os

# gRPC's own library reads this as it is imported. By default it writes to standard error what a
# peer says as it closes a connection (GOAWAY), with its control characters, and a line for each
# request that has a wrong header.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from inference_service.cli import main

if __name__ == "__main__":
    main()
