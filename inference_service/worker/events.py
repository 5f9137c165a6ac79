"""What the worker tells its parent: one JSON object per line on standard output."""

import json
import sys


def emit(event: str, **fields: object) -> None:
    """Write one event and flush it. A parent that has closed the pipe is no reason to fail."""
    try:
        sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # The next flush, at exit, would raise again: leave it a file that takes everything.
        sys.stdout = open("/dev/null", "w")  # noqa: SIM115
