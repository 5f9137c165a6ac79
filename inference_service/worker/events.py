"""Events for the parent: one JSON object per line on standard output."""

import json
import sys


def emit(event: str, **fields: object) -> None:
    """Write one event and flush it."""
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()
