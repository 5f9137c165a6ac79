"""The command `inference-service`, with counts from inside the process at each SIGUSR1.

The line is `observed`, the tasks of the loop, and the blocks of memory that Python has allocated.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from inference_service import cli


def report(*_: object) -> None:
    """Write the line."""
    counts = f"observed {len(asyncio.all_tasks())} {sys.getallocatedblocks()}\n"
    os.write(sys.stdout.fileno(), counts.encode())


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, report)
    cli.main()
