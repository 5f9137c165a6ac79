"""A cache that something has damaged: a start mends it, or ends with a sentence; none waits."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.doubles.hub import Hub

from .conftest import Start

REPO, FILE = "maker/story-GGUF", "q8/story.gguf"

Damage = Callable[[Path], object]


def folder(path: Path) -> None:
    path.mkdir()
    (path / "inside").touch()


def large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 30)


DAMAGE: dict[str, Damage] = {
    "empty": lambda path: path.touch(),
    "path": lambda path: path.write_text("../../../../etc"),
    "bytes": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "nested": lambda path: path.write_text("[" * 4000),
    "folder": folder,
    "pipe": os.mkfifo,
    "loop": lambda path: path.symlink_to(path.name),
    "large": large,
}


def replace(path: Path, damage: Damage) -> None:
    if path.is_symlink() or path.exists():
        path.unlink()
    path.parent.mkdir(parents=True, exist_ok=True)
    damage(path)


# A snapshot that is no link is as good as any file, for its name has no digest.
CASES = [
    *((part, damage) for part in ("refs", ".verified", "blobs", "incomplete") for damage in DAMAGE),
    *(("snapshots", damage) for damage in ("folder", "pipe", "loop")),
]


@pytest.mark.parametrize(("part", "damage"), CASES)
async def test_a_damaged_file_of_the_cache(
    start: Start, hub: Hub, tmp_path: Path, story: bytes, part: str, damage: str
) -> None:
    commit = hub.add(REPO, FILE, story)
    environment = {
        "LLAMACPP_REPO": REPO,
        "LLAMACPP_FILE": FILE,
        "HF_HOME": str(tmp_path),
        "HF_ENDPOINT": hub.url,
    }
    await (await start(**environment)).until("serving")
    repository = tmp_path / "hub" / "models--maker--story-GGUF"
    snapshot = repository / "snapshots" / commit / FILE
    blob = snapshot.resolve()
    paths = {
        "refs": repository / "refs" / "main",
        ".verified": repository / ".verified" / blob.name,
        "snapshots": snapshot,
        "blobs": blob,
        "incomplete": blob.with_name(f"{blob.name}.incomplete"),
    }
    if part == "incomplete":
        blob.unlink()
        snapshot.unlink()
    replace(paths[part], DAMAGE[damage])

    for _ in range(2):  # a file that is found damaged may be removed, as an interrupted one is
        worker = await start(**environment)
        while (event := await worker.next()) is not None and event["event"] != "serving":
            pass
        if event is not None:
            break
        assert worker.events[-1]["event"] == "failed", await worker.errors()
    assert event is not None, worker.events
    if part == "refs":
        assert paths[part].read_text() == commit


async def test_a_branch_is_not_read_from_a_damaged_reference(
    start: Start, hub: Hub, tmp_path: Path, story: bytes
) -> None:
    hub.add(REPO, FILE, story)
    environment = {"LLAMACPP_REPO": REPO, "LLAMACPP_FILE": FILE, "HF_HOME": str(tmp_path)}
    await (await start(**environment, HF_ENDPOINT=hub.url)).until("serving")
    reference = tmp_path / "hub" / "models--maker--story-GGUF" / "refs" / "main"
    reference.write_text("\n")
    hub.status = 500

    worker = await start(**environment, HF_ENDPOINT=hub.url)
    code, reason, _ = await worker.failure()

    assert (code, reason) == (3, "HUB_UNREACHABLE")
    warnings = (await worker.errors()).splitlines()
    assert warnings == [
        f"{reference} is damaged (it names no commit); it is main.damaged now",
    ]


async def test_a_folder_that_cannot_be_written_to(
    start: Start, hub: Hub, tmp_path: Path, story: bytes
) -> None:
    hub.add(REPO, FILE, story)
    environment = {"LLAMACPP_REPO": REPO, "LLAMACPP_FILE": FILE, "HF_HOME": str(tmp_path)}
    await (await start(**environment, HF_ENDPOINT=hub.url)).until("serving")
    folder = tmp_path / "hub" / "models--maker--story-GGUF" / "refs"
    (folder / "main").unlink()
    folder.rmdir()
    folder.write_text(os.strerror(errno.EROFS))  # which keeps root from writing, too

    await (await start(**environment, HF_ENDPOINT=hub.url)).until("serving")
