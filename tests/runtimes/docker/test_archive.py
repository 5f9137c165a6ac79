"""The archive in which a daemon takes files."""

import io
import tarfile

import pytest

from inference_service.runtimes.docker import archive

_BLOCK = 512


@pytest.mark.parametrize("size", [0, 1, _BLOCK, 10_240, 300_001])
def test_nothing_follows_the_end(size: int) -> None:
    content = b"x" * size
    packed = archive.of({"run/file": content}, 0o444)

    blocks = 1 + -(-size // _BLOCK)  # its header, and the file
    assert len(packed) == (blocks + 2) * _BLOCK
    with tarfile.open(fileobj=io.BytesIO(packed)) as files:
        entry = files.getmember("run/file")
        file = files.extractfile(entry)
        assert file is not None
        assert (entry.mode, file.read()) == (0o444, content)
