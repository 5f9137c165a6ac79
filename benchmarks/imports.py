"""Memory and time that each package adds to a new process, as JSON.

`python -m benchmarks.imports` imports the packages one after the other, so code that two of them
share is counted for the first. This file imports few modules, because a package would find them
loaded. Memory is in KiB, as in proc_pid_smaps_rollup(5); time is in seconds and includes reading
from a cold disk.
"""

import importlib
import json
import time
from pathlib import Path

PACKAGES = (
    *("asyncio", "google.protobuf", "grpc.aio", "grpc_health.v1.health"),
    *("grpc_reflection.v1alpha.reflection_pb2_grpc", "grpc_status.rpc_status", "pydantic_settings"),
    *("msgspec", "aiohttp", "docker", "inference_service.cli", "fastapi"),
    "rest_bridge.app",
)


def resident() -> dict[str, int]:
    """Return `Rss` and `Pss` of this process."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    figures = {line.partition(":")[0]: int(line.split()[1]) for line in lines}
    return {name: figures[name] for name in ("Rss", "Pss")}


def main() -> None:
    """Import the packages and print the JSON object."""
    before = resident()
    added = {"python": {**before, "seconds": 0.0}}
    for name in PACKAGES:
        began = time.monotonic()
        importlib.import_module(name)
        took = time.monotonic() - began
        after = resident()
        added[name] = {key: after[key] - before[key] for key in after} | {"seconds": took}
        before = after
    print(json.dumps(added))


if __name__ == "__main__":
    main()
