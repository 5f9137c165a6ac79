"""A shard that outgrows its memory. Run as a program; it ends by signal 9, and by no other way.

Inside a memory limit the kernel ends it. Without one it stops at `_UNLIMITED_BYTES` and ends
itself by the same signal, so that a machine without a limit is not brought down.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

_STEP = 8 * 1024 * 1024
_UNLIMITED_BYTES = 256 * 1024 * 1024
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def _limit() -> int:
    """The control group's limit, or the bytes after which to give up growing."""
    for name in _LIMITS:
        with contextlib.suppress(OSError, ValueError):
            found = int(Path(name).read_text())
            if found < 2**50:
                return found
    return _UNLIMITED_BYTES


def main() -> None:
    # Of all processes in the control group the kernel is to choose this one.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    limit = _limit()
    held: list[bytes] = []
    most = limit if limit == _UNLIMITED_BYTES else limit * 2
    while len(held) * _STEP < most:
        held.append(os.urandom(4096) * (_STEP // 4096))
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
