"""Files as the archive in which a daemon takes them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping


def of(files: Mapping[str, bytes], mode: int) -> bytes:
    """Pack files by their names, without the padding that follows the end of an archive.

    Podman's unpacker reads to the end of the archive and closes the pipe, so that the rest of the
    padding broke it now and then.
    """
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as packed:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            packed.addfile(entry, io.BytesIO(content))
    return archive.getvalue()[: packed.offset]
