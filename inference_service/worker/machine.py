"""Requirements on the machine, and the cores of it that may be used."""

import ctypes
import os
import resource
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from .failure import ExitCode, WorkerError

_GOMP = "libgomp.so.1"
_FOLDER = "LLAMACPP_OPENMP_FOLDER"  # passes the folder to remove on to the next start


def check_processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> None:
    """Refuse an x86 processor without AVX2, on which xllamacpp's wheel would die of SIGILL.

    Raises WorkerError, code 6. A machine that lists no `flags` (not x86, or not Linux) passes.
    """
    if not cpuinfo.exists():
        return
    flags = next(
        (line.split() for line in cpuinfo.read_text().splitlines() if line.startswith("flags")),
        None,
    )
    if flags is not None and "avx2" not in flags:
        message = "This processor lacks the AVX2 instructions that the llama.cpp engine needs."
        raise WorkerError(ExitCode.MACHINE, "NO_AVX2", message)


def no_core_dumps() -> None:
    """Keep this process from leaving its memory on the disk: prompts, and the token of the hub.

    A limit of 1 byte ends dumps into a program too, where 0 does not (`man 5 core`).
    """
    with suppress(ValueError, OSError):  # a lower hard limit is in force
        resource.setrlimit(resource.RLIMIT_CORE, (1, 1))


def usable_cores() -> int:
    """Return the number of cores by this process's affinity and its control group's CPU quota."""
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        cores = len(os.sched_getaffinity(0))
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.exists():  # control groups version 2: "<microseconds of CPU, or max> <period>"
        limit, period = quota.read_text().split()
        if limit != "max":
            cores = min(cores, round(int(limit) / int(period)))
    return max(cores, 1)


def ensure_openmp() -> None:
    """Make sure that xllamacpp finds `libgomp.so.1`, which its wheel needs and lacks.

    On a system without the library, the process starts again (same process id) with a copy from a
    Python package, as wheels built with OpenMP bundle one. Raises WorkerError, code 6, when no
    package has a copy.
    """
    if sys.platform != "linux":
        return
    folder = os.environ.pop(_FOLDER, None)
    try:
        ctypes.CDLL(_GOMP)  # stays loaded, so xllamacpp's own look-up by this name needs no path
    except OSError as error:
        library = bundled_openmp()
        if folder is not None or library is None:
            message = "libgomp.so.1 is missing: install it, with `apt-get install libgomp1` or so."
            raise WorkerError(ExitCode.MACHINE, "NO_OPENMP", message) from error
        _restart_with(library)
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def bundled_openmp() -> Path | None:
    """Find GNU's OpenMP library in a wheel; auditwheel puts it in `<package>.libs/`."""
    for entry in filter(None, sys.path):
        for library in Path(entry).glob("*.libs/libgomp*.so*"):
            return library
    return None


def _restart_with(library: Path) -> NoReturn:
    # A new process, because the loader reads LD_LIBRARY_PATH only at the start. A link, because the
    # loader looks for the plain name, and the name of a bundled library has a hash in it.
    folder = tempfile.mkdtemp(prefix="libgomp-")
    Path(folder, _GOMP).symlink_to(library.resolve())
    paths = [folder, *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    environment = os.environ | {"LD_LIBRARY_PATH": ":".join(paths), _FOLDER: folder}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
