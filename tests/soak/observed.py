"""The command `inference-service`, which tells on SIGUSR1 what it alone can count.

It writes `observed`, the tasks of its loop, and the blocks of memory that Python has allocated.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from inference_service import cli


def tell(*_: object) -> None:
    """Write the line."""
    counts = f"observed {len(asyncio.all_tasks())} {sys.getallocatedblocks()}\n"
    os.write(sys.stdout.fileno(), counts.encode())


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, tell)
    cli.main()
