"""The SHA-256 of a file.

llama.cpp loads weights with flipped bits without an error, and then generates garbage.
"""

import hashlib
import json
from contextlib import suppress
from pathlib import Path

from . import stored
from .failure import ExitCode, WorkerError
from .progress import Progress

_CHUNK_BYTES = 4 * 2**20


def verify(
    path: Path,
    name: str,
    sha256: str,
    code: ExitCode,
    marker: Path | None = None,
    reason: str = "WRONG_FILE",
) -> None:
    """Raise WorkerError with `code` and `reason` unless the file has this SHA-256.

    `sha256` is 64 lower-case hexadecimal digits; `name` stands for the file in messages. `marker`
    is a small file that records a success, so that the same bytes are read once and not at each
    start. The record is good while the file keeps its size and modification time.
    """
    status = path.stat()
    record = {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": sha256}
    if marker is not None and _recorded(marker) == record:
        return
    actual = _digest(path, Progress("verifying", name, status.st_size))
    if actual != sha256:
        message = f"{name} is damaged, or another file: SHA-256 {actual} instead of {sha256}."
        raise WorkerError(code, reason, message)
    if marker is not None:
        with suppress(OSError):  # a read-only cache: the next start verifies again
            stored.write(marker, json.dumps(record))


def _recorded(marker: Path) -> object:
    data = stored.small(marker)
    if data is None:
        return None
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        stored.set_aside(marker, str(error))
        return None


def _digest(path: Path, progress: Progress) -> str:
    digest = hashlib.sha256()
    completed = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            completed += len(chunk)
            progress.at(completed)
    return digest.hexdigest()
