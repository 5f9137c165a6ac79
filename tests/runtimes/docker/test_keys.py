"""The keys of engines in containers, in files that anything may have damaged."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from inference_service.key import Key
from inference_service.runtimes.docker.keys import Keys

RUN = Key("tiny", 2)


def test_a_key_is_kept_for_the_next_service(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "keys"
    key = Keys(folder).new(RUN)
    (path,) = folder.iterdir()

    assert Keys(folder).known(RUN) == key
    assert len(key) == 32
    assert Keys(folder).new(RUN) != key
    assert Keys(folder).known(Key("tiny", 1)) is None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    Keys(folder).forget(RUN)
    Keys(folder).forget(RUN)
    assert Keys(folder).known(RUN) is None


@pytest.mark.parametrize(
    "damage",
    [
        Path.touch,
        Path.mkdir,
        os.mkfifo,
        lambda path: path.symlink_to(path.name),
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.write_text("k" * 32),
        lambda path: path.write_text("a" * 32 + "\n"),
        lambda path: path.write_text("a" * 32 + "\r\nx: y"),
        lambda path: path.write_bytes(b"\xff" * 32),
        lambda path: path.write_bytes(bytes(1 << 20)),
    ],
)
def test_a_damaged_key_is_set_aside(
    tmp_path: Path, damage: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    keys = Keys(tmp_path)
    path = tmp_path / str(RUN)
    damage(path)
    assert keys.known(RUN) is None
    assert keys.known(RUN) is None
    (record,) = caplog.records
    assert str(path) in record.getMessage()
    key = keys.new(RUN)
    assert keys.known(RUN) == key


def test_where_no_key_can_be_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    keys = Keys(tmp_path / "file")
    assert len(keys.new(RUN)) == 32
    assert "cannot adopt" in caplog.text
