"""Unix sockets, at which programs of this machine reach gRPC without a port."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from inference_service.api.addresses import UNIX, BindError

_LONGEST = 107  # bytes that the kernel takes
_MASK = 0o117  # who may connect may call: the owner and the group (mode 660)


def bind(host: str, add: Callable[[str], object]) -> str:
    """Have `add` listen at a host such as `unix:/run/inference.sock`; return gRPC's name of it.

    A file that an earlier service has left is removed. Raises BindError.
    """
    path = _path(host)
    try:
        _make_way(path)
        mask = os.umask(_MASK)
        try:
            _try(path)  # gRPC's own error names no cause
            add(f"{UNIX}{path}")
        finally:
            os.umask(mask)
    except OSError as error:
        raise _refused(path, error.strerror or str(error)) from None
    return f"{UNIX}{path}"


def remove(target: str) -> None:
    """Remove the file of a socket at which nobody listens any more."""
    path = Path(target.removeprefix(UNIX))
    with suppress(OSError):
        if not _listens(path):
            path.unlink()


def _path(host: str) -> Path:
    given = host.removeprefix(UNIX)
    path = Path("/" + given.lstrip("/")) if given.startswith("/") else None
    if path is None or path == Path("/"):
        raise BindError(
            f"gRPC cannot listen on {host}: the path must be absolute, such as "
            "--host unix:/run/inference.sock"
        )
    if len(os.fsencode(path)) > _LONGEST:
        raise _refused(path, f"a path may have {_LONGEST} bytes")
    return path


def _make_way(path: Path) -> None:
    """Remove a socket at which nobody listens."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise _refused(path, "the file is no socket")
    if _listens(path):
        raise _refused(path, "another program listens there")
    path.unlink()


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except (TimeoutError, BlockingIOError):  # one whose queue is full
            return True
        return True


def _try(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.bind(str(path))
    path.unlink()


def _refused(path: Path, cause: str) -> BindError:
    return BindError(f"gRPC cannot listen on {UNIX}{path} ({cause}); choose another --host")
