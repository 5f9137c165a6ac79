"""The memory that counts: of the machine, of control groups in both versions, of a daemon."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker import DockerClient

from inference_service.capacity import memory
from tests.docker import images

GIB = 2**30
NO_LIMIT = 9223372036854771712  # of version 1
V1 = "35 31 0:32 {top} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory"
V2 = "41 31 0:38 {top} /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw,nsdelegate"
CPU = "33 31 0:30 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu"


class Tree:
    """The files by which a kernel shows control groups."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("proc/meminfo", f"MemTotal: {8 * GIB // 1024} kB\nMemFree: 1 kB\n")

    def write(self, name: str, text: object) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")

    def is_in(self, *groups: str, mounts: tuple[str, ...]) -> None:
        self.write("proc/self/cgroup", "\n".join(groups))
        self.write("proc/self/mountinfo", "\n".join((CPU, *mounts)))

    @property
    def least(self) -> int:
        return memory.least(self.root).size


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 16 * 2**18}.get)
    return Tree(tmp_path)


def test_without_control_groups_the_machine_counts(tree: Tree, tmp_path: Path) -> None:
    assert tree.least == 8 * GIB  # as LXC shows its container in /proc/meminfo
    assert memory.least(tmp_path / "no linux") == (16 * GIB, "the memory of this machine")
    assert memory.usable(tree.root) == 8 * GIB * 9 // 10


@pytest.mark.parametrize("where", ["", "/slice", "/slice/own.service"])
def test_every_group_above_counts_in_version_2(tree: Tree, where: str) -> None:
    tree.is_in("0::/slice/own.service", mounts=(V2.format(top="/"),))
    for group in ("/slice", "/slice/own.service"):
        tree.write(f"sys/fs/cgroup{group}/memory.max", "max")
    tree.write(f"sys/fs/cgroup{where}/memory.max", 3 * GIB)

    assert tree.least == 3 * GIB
    assert f"/sys/fs/cgroup{where}" in memory.least(tree.root).what


def test_a_group_that_is_slowed_down_counts(tree: Tree) -> None:
    tree.is_in("0::/own", mounts=(V2.format(top="/"),))
    tree.write("sys/fs/cgroup/own/memory.max", 4 * GIB)
    tree.write("sys/fs/cgroup/own/memory.high", 3 * GIB)
    assert tree.least == 3 * GIB


@pytest.mark.parametrize("where", ["/slice", "/slice/own"])
def test_every_group_above_counts_in_version_1(tree: Tree, where: str) -> None:
    tree.is_in("7:cpu:/", "4:memory:/slice/own", "0::/", mounts=(V1.format(top="/"),))
    for group in ("", "/slice", "/slice/own"):
        tree.write(f"sys/fs/cgroup/memory{group}/memory.limit_in_bytes", NO_LIMIT)
    tree.write(f"sys/fs/cgroup/memory{where}/memory.limit_in_bytes", 2 * GIB)
    assert tree.least == 2 * GIB


def test_without_a_limit_the_machine_counts(tree: Tree) -> None:
    tree.is_in("4:memory:/own", "0::/", mounts=(V1.format(top="/"), V2.format(top="/")))
    tree.write("sys/fs/cgroup/memory/own/memory.limit_in_bytes", NO_LIMIT)
    tree.write(
        "sys/fs/cgroup/memory/own/memory.stat", f"cache 0\nhierarchical_memory_limit {NO_LIMIT}"
    )
    assert tree.least == 8 * GIB


def test_a_container_sees_the_limit_above_its_own_group_in_version_1(tree: Tree) -> None:
    tree.is_in("4:memory:/pods/one", mounts=(V1.format(top="/pods/one"),))
    tree.write("sys/fs/cgroup/memory/memory.limit_in_bytes", 4 * GIB)
    stat = f"cache 4096\nhierarchical_memory_limit {2 * GIB}\ntotal_cache 4096"
    tree.write("sys/fs/cgroup/memory/memory.stat", stat)
    assert tree.least == 2 * GIB


@pytest.mark.parametrize(
    ("group", "top"),
    [("/", "/"), ("/../other", "/"), ("/docker/one", "/docker/one"), ("/docker/one", "/..")],
)
def test_the_mount_of_a_container_begins_at_its_group(tree: Tree, group: str, top: str) -> None:
    tree.is_in(f"0::{group}", mounts=(V2.format(top=top),))
    tree.write("sys/fs/cgroup/memory.max", 2 * GIB)
    assert tree.least == 2 * GIB


def test_a_service_of_a_container_has_a_group_of_its_own(tree: Tree) -> None:
    tree.is_in("0::/system.slice/own.service", mounts=(V2.format(top="/"),))
    tree.write("sys/fs/cgroup/memory.max", 2 * GIB)  # of LXC's container
    tree.write("sys/fs/cgroup/system.slice/own.service/memory.max", "max")
    assert tree.least == 2 * GIB


@pytest.mark.parametrize("text", ["", "max", "-1", "0", "nonsense", "1 2"])
def test_what_is_no_size_is_no_limit(tree: Tree, text: str) -> None:
    tree.is_in("0::/own", mounts=(V2.format(top="/"),))
    tree.write("sys/fs/cgroup/own/memory.max", text)
    assert tree.least == 8 * GIB


@pytest.mark.parametrize(
    ("limit", "daemon", "words"),
    [
        ("max", 0, []),
        ("max", 8 * GIB, []),
        (GIB, 0, ["models as processes: 1.0 GB, nine tenths of the limit of the control group"]),
        ("max", GIB, ["models in containers: 1.0 GB, nine tenths of what the Docker daemon"]),
    ],
)
def test_a_limit_that_is_not_the_machine_is_told(
    tree: Tree, caplog: pytest.LogCaptureFixture, limit: object, daemon: int, words: list[str]
) -> None:
    caplog.set_level("INFO")
    tree.is_in("0::/own", mounts=(V2.format(top="/"),))
    tree.write("sys/fs/cgroup/own/memory.max", limit)
    memory.usable(tree.root, daemon)
    assert len(caplog.messages) == len(words)
    assert all(word in text for word, text in zip(words, caplog.messages, strict=True))


def test_a_setting_above_a_limit_is_warned_of(tree: Tree, caplog: pytest.LogCaptureFixture) -> None:
    tree.is_in("0::/", mounts=(V2.format(top="/"),))
    tree.write("sys/fs/cgroup/memory.max", 2 * GIB)
    for given in (None, GIB, 2 * GIB):
        memory.warn(given, tree.root)
    assert not caplog.messages

    memory.warn(8 * 10**9, tree.root)

    [line] = caplog.messages
    assert line.startswith("--memory lets models have 8.0 GB, and the limit of the control group ")
    assert line.endswith(" is 2.1 GB: what takes more is killed")


def test_a_daemon_can_have_less_than_the_machine(tree: Tree) -> None:
    assert memory.least(tree.root, daemon=6 * GIB).size == 6 * GIB  # Docker Desktop
    assert memory.least(tree.root, daemon=64 * GIB).size == 8 * GIB
    assert memory.least(tree.root, daemon=0).size == 8 * GIB


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of version 1 on this machine, in one with a limit of 3 GiB."""
    outer = Path(f"/sys/fs/cgroup/memory/inference-service-tests-{os.getpid()}")
    inner = outer / "inner"
    try:
        inner.mkdir(parents=True)
        (outer / "memory.limit_in_bytes").write_text(str(3 * GIB))
    except OSError:
        with contextlib.suppress(OSError):
            outer.rmdir()
        pytest.skip("this machine lets us make no control groups of version 1")
    yield inner
    inner.rmdir()
    outer.rmdir()


_ASK = "from inference_service.capacity import memory; print(memory.least().size)"


def test_a_real_group_below_one_with_a_limit(group: Path) -> None:
    def enter() -> None:
        (group / "cgroup.procs").write_text(str(os.getpid()))

    asked = subprocess.run(
        [sys.executable, "-c", _ASK], capture_output=True, text=True, check=True, preexec_fn=enter
    )
    assert int(asked.stdout) == 3 * GIB


_IN_CONTAINER = "import sys; sys.path[0] = '/m'; import memory; print(memory.least().size)"


def in_container(client: DockerClient, **options: Any) -> int:
    """Return what a container with these options says."""
    folder = str(Path(memory.__file__).parent)
    said = client.containers.run(
        images.python_base(client),
        ["python", "-c", _IN_CONTAINER],
        volumes={folder: {"bind": "/m", "mode": "ro"}},
        remove=True,
        **options,
    )
    return int(said)


@pytest.mark.docker
def test_in_a_real_container(docker_client: DockerClient) -> None:
    assert in_container(docker_client, mem_limit="512m") == 512 * 2**20


@pytest.mark.docker
def test_a_limit_above_a_real_container_counts(docker_client: DockerClient, group: Path) -> None:
    """The container has no limit of its own, and does not see the group above it."""
    assert in_container(docker_client, cgroup_parent=f"/{group.parent.name}") == 3 * GIB
