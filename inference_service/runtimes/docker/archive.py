"""Files to be put into a container, or into an image, as an archive."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping


def packed(files: Mapping[str, bytes]) -> bytes:
    """Pack files by their paths, readable for all.

    Nothing follows the two blocks that end an archive: podman reads no further, and refuses now and
    then what it cannot be rid of ("write |1: broken pipe").
    """
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(content), 0o444
            tar.addfile(entry, io.BytesIO(content))
        end = tar.offset
    return archive.getvalue()[: end + 2 * tarfile.BLOCKSIZE]
