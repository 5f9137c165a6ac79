"""A guard around a program, which ends with the service: `python -I -S guard.py WORDS...`.

The guard leads the process group of the program. It passes SIGTERM on, and ends as the program
does. When its standard input closes, the service is gone, and the guard kills the group. It needs
only the standard library, and starts without `site`, because each start of an engine waits for it.
"""

import contextlib
import os
import resource
import select
import signal
import subprocess
import sys


def main(words: list[str]) -> None:
    woken, wakes = os.pipe()
    for end in (woken, wakes):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    # No core dumps, of which 0 bytes would still let those into a program pass (`man 5 core`).
    with contextlib.suppress(ValueError, OSError):  # a lower hard limit is in force
        resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    try:
        child = subprocess.Popen(words, stdin=subprocess.PIPE)  # which some programs watch
    except OSError as error:
        sys.exit(f"{words[0]} cannot be run: {error.strerror}")
    while child.poll() is None:
        ready, _, _ = select.select([0, woken], [], [])
        if 0 in ready and not os.read(0, 1024):
            os.killpg(0, signal.SIGKILL)
        if woken in ready:
            os.read(woken, 1024)
        if stopped:
            stopped.clear()
            child.terminate()
    if child.returncode < 0:  # of a signal, of which the guard dies too
        with contextlib.suppress(OSError):  # SIGKILL has no handler
            signal.signal(-child.returncode, signal.SIG_DFL)
        os.kill(os.getpid(), -child.returncode)
    sys.exit(child.returncode)


if __name__ == "__main__":
    main(sys.argv[1:])
