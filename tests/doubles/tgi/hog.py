"""A program that outgrows its memory, as a shard may. It always ends by signal 9.

Under a memory limit the kernel sends the signal. Without a limit the program stops at
`_UNLIMITED_BYTES` and sends the signal to itself, so that it does not take all memory of a machine.
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
    """Return the control group's limit, or the bytes at which to stop."""
    for name in _LIMITS:
        with contextlib.suppress(OSError, ValueError):
            found = int(Path(name).read_text())
            if found < 2**50:
                return found
    return _UNLIMITED_BYTES


def main() -> None:
    """Grow beyond the limit."""
    # So that the kernel chooses this process among those in the control group.
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
