"""A shard: a process of its own, whose life and death are all that it has of the real one.

The arguments are the path of its socket and the seconds until the socket is there. Who connects
gets the id of the process, and learns of its end when the connection closes. The order `crash` ends
it with a message on standard error.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time

CRASH = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 172.00 MiB. GPU 0 "
    "has a total capacity of 14.74 GiB of which 62.12 MiB is free."
)


def main(path: str, load_seconds: float) -> None:
    """Load, then listen until a signal or an order."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # that of a shard before, which was killed
    time.sleep(load_seconds)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        router, _ = listening.accept()
        router.sendall(f"{os.getpid()}\n".encode())
        if router.recv(64) == b"crash\n":
            sys.exit(CRASH)
        time.sleep(1e6)  # the router is gone, and the launcher ends the shard


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
