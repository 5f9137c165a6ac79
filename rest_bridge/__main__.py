"""The command `rest-bridge`, and `python -m rest_bridge`."""

import os

# As in inference_service: gRPC's own library would write the words of its peer as they came.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from rest_bridge.cli import main

if __name__ == "__main__":
    main()
