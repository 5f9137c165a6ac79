"""Archives of files."""

from __future__ import annotations

import io
import tarfile

import pytest

from inference_service.runtimes.docker.archive import packed


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 20_000])
def test_what_is_packed_is_read_and_nothing_follows_the_end(size: int) -> None:
    data = packed({"run/a/file": b"x" * size, "other": b""})
    with tarfile.open(fileobj=io.BytesIO(data)) as files:
        member = files.getmember("run/a/file")
        found = files.extractfile(member)
        assert found is not None
        assert found.read() == b"x" * size
        assert member.mode == 0o444
    blocks = 2 + -(-size // 512)  # two heads, and the content
    assert len(data) == blocks * 512 + 1024
    assert not any(data[-1024:])


def test_no_file() -> None:
    assert packed({}) == bytes(1024)
