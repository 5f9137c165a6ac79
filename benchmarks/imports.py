"""`python -m benchmarks.imports`: what each package adds to a fresh process, as one JSON object.

Each is imported after those before it: what two of them share is counted for the first. It imports
nothing else itself, for that would be there already. Memory in KiB, as proc_pid_smaps_rollup(5)
has it; time in seconds, cold caches of the disk included.
"""

import importlib
import json
import time
from pathlib import Path

PACKAGES = (
    *("asyncio", "google.protobuf", "grpc.aio", "grpc_health.v1.health"),
    *("grpc_reflection.v1alpha.reflection", "grpc_status.rpc_status", "pydantic_settings"),
    *("msgspec", "aiohttp", "docker", "uvicorn", "inference_service.cli", "fastapi"),
    "rest_bridge.app",
)


def resident() -> dict[str, int]:
    """`Rss` and `Pss` of this process."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    figures = {line.partition(":")[0]: int(line.split()[1]) for line in lines}
    return {name: figures[name] for name in ("Rss", "Pss")}


def main() -> None:
    """Import, and print."""
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
