"""Memory limits of engines that are processes, by a control group and by looking."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest

from inference_service.runtimes import memory, process
from inference_service.runtimes.base import Exit
from inference_service.runtimes.control_group import ControlGroup
from inference_service.runtimes.memory import MemoryLimit
from inference_service.runtimes.ports import Ports
from tests.runtimes.beds import MIB, ProcessBed, ask
from tests.waiting import PROMPTLY, SLOWLY, until, within


def by_looking(pid: int, claim: int, slots: int) -> MemoryLimit:
    return MemoryLimit(pid, claim, slots, groups=False)


@pytest.fixture(params=["group", "looks"])
async def bed(
    request: pytest.FixtureRequest, ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[ProcessBed]:
    monkeypatch.setattr(memory, "limit", lambda claim, slots: claim)
    if request.param == "looks":
        monkeypatch.setattr(process, "MemoryLimit", by_looking)
    elif not await has_groups():
        pytest.skip("this machine lets us make no control groups")
    bed = ProcessBed(ports)
    yield bed
    await bed.close()


async def has_groups() -> bool:
    idle = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "input()", stdin=asyncio.subprocess.PIPE
    )
    group = ControlGroup.around(idle.pid, 64 * MIB)
    idle.kill()
    await idle.wait()
    if group is not None:
        await group.aclose()
    return group is not None


async def test_an_engine_beyond_its_memory_limit(bed: ProcessBed) -> None:
    killed = within(SLOWLY, "the engine was not killed at its memory limit")
    async with bed.running(memory_bytes=64 * MIB) as running, killed:
        await ask(running, "/grow")

        ended = await running.wait()
        assert ended == Exit(-9, oom_killed=True)
        limit = "ran out of its memory limit"
        assert str(ended) == f"{limit} (exit code -9, SIGKILL; raise `memory` of its entry)"
    assert await running.wait() == ended


async def test_a_child_counts_too(bed: ProcessBed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_FAMILY", 0.1)
    async with bed.running(memory_bytes=64 * MIB) as running:
        assert isinstance(running, process.RunningProcess)
        await ask(running, "/child")
        await ask(running, "/fork")
        # In a group of version 1 the kernel kills the child alone, as in a container.
        await until(lambda: running._memory.exceeded(0) == "", "no process was killed", SLOWLY)


async def test_pages_of_a_file_do_not_count(bed: ProcessBed, tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(bytes(200 * MIB))
    async with bed.running(memory_bytes=64 * MIB, env={"WEIGHTS": str(file)}) as running:
        assert await ask(running, "/map/WEIGHTS") == str(200 * MIB)
        await asyncio.sleep(1.2)
        assert await ask(running, "/env/WEIGHTS") == str(file)


async def test_an_engine_that_ends_leaves_no_group(bed: ProcessBed) -> None:
    before = groups()
    async with bed.running(memory_bytes=64 * MIB) as running:
        await ask(running, "/fork")
        await ask(running, "/exit/3")
        assert await running.wait() == Exit(3)
    assert groups() <= before


async def test_a_start_that_is_cancelled_leaves_no_group(bed: ProcessBed) -> None:
    before = groups()

    async def cancelled() -> None:
        async with bed.running(memory_bytes=64 * MIB):
            await asyncio.Event().wait()

    task = asyncio.create_task(cancelled())
    await asyncio.sleep(0.3)
    task.cancel()
    await asyncio.wait([task])
    assert groups() <= before


def groups() -> set[Path]:
    """Return the control groups of this process."""
    return set(Path("/sys/fs/cgroup").glob(f"**/inference-service-{os.getpid()}-*"))


def test_the_limit_has_room_for_estimates() -> None:
    assert memory.limit(256 * MIB, 8) == 384 * MIB + 8 * 320 * MIB
    assert memory.limit(256 * MIB, 1024) == 384 * MIB + 16 * 320 * MIB
    assert memory.limit(12 * 10**9, 4) > 4.1e9 + 8.6e9 + 4 * 300e6


class Files:
    """A file system with control groups, whose files the kernel does not fill."""

    def __init__(self, root: Path, ours: str) -> None:
        self.root = root
        self.groups = root / "sys/fs/cgroup"
        (root / "proc/self").mkdir(parents=True)
        (root / "proc/self/cgroup").write_text(ours)

    def group(self, path: str, **files: str) -> None:
        (self.groups / path).mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (self.groups / path / name.replace("__", ".")).write_text(text)

    def made(self) -> dict[str, str]:
        """Return the files of the group that was made."""
        (folder,) = self.groups.glob("**/inference-service-*")
        return {file.name: file.read_text() for file in folder.iterdir()} | {
            "": str(folder.parent.relative_to(self.groups))
        }


@pytest.mark.parametrize(
    ("ours", "own", "parent"),
    [
        pytest.param("0::/user.slice/ours.scope\n", "user.slice/ours.scope", "user.slice", id="v2"),
        pytest.param("3:cpu,memory:/a/b\n0::/\n", "memory/a/b", "memory/a/b", id="v1"),
        pytest.param("4:memory:/not/seen/here\n", "memory", "memory", id="v1 in a container"),
    ],
)
def test_the_place_of_a_group(tmp_path: Path, ours: str, own: str, parent: str) -> None:
    files = Files(tmp_path, ours)
    files.group(".", cgroup__controllers="cpu memory")
    files.group(own, cgroup__subtree_control="")
    files.group("user.slice", cgroup__subtree_control="cpu memory\n")

    assert ControlGroup.around(77, 1000, tmp_path) is not None

    made = files.made()
    assert (made[""], made["cgroup.procs"]) == (parent, "77")
    assert made["memory.limit_in_bytes"] == "1000"


def test_without_a_group_of_our_own_there_is_none(tmp_path: Path) -> None:
    files = Files(tmp_path, "0::/\n")
    files.group(".", cgroup__controllers="cpu memory", cgroup__subtree_control="cpu")
    assert ControlGroup.around(77, 1000, tmp_path) is None
    assert ControlGroup.around(77, 1000, tmp_path / "nothing") is None


def test_groups_of_services_that_were_killed_are_removed(tmp_path: Path) -> None:
    files = Files(tmp_path, "4:memory:/\n")
    for name in ("inference-service-999999999-1", "inference-service-42-1", "other-1"):
        files.group(f"memory/{name}")
    (tmp_path / "proc/42").mkdir()

    ControlGroup.around(77, 1000, tmp_path)

    left = {folder.name for folder in (files.groups / "memory").iterdir()}
    assert left >= {"inference-service-42-1", "other-1"}
    assert "inference-service-999999999-1" not in left


async def test_a_process_that_has_ended_is_no_fault() -> None:
    async with within(PROMPTLY, "the limit was not closed"):
        limit = by_looking(999999999, MIB, 1)
        await asyncio.sleep(0.01)
        await limit.aclose()
    assert limit.exceeded(0) is None


@pytest.mark.parametrize(
    ("files", "full"),
    [
        ({"memory.events": "high 0\nmax 9\noom 1\noom_kill 1\n"}, True),
        ({"memory.events": "high 0\nmax 0\noom 0\noom_kill 1\n"}, False),
        ({"memory.max_usage_in_bytes": 99 * MIB, "memory.limit_in_bytes": 99 * MIB + 4096}, True),
        ({"memory.max_usage_in_bytes": 50 * MIB, "memory.limit_in_bytes": 99 * MIB}, False),
        ({}, True),  # the folder has gone
    ],
)
def test_whether_a_group_has_met_its_own_limit(
    tmp_path: Path, files: dict[str, object], full: bool
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(str(text))

    assert ControlGroup(tmp_path).is_full() is full


@pytest.fixture
def full() -> Iterator[Path]:
    """A control group of version 1 on this machine, in one with a limit of 256 MiB."""
    outer = Path(f"/sys/fs/cgroup/memory/inference-service-tests-{os.getpid()}")
    inner = outer / "inner"
    try:
        inner.mkdir(parents=True)
        (outer / "memory.limit_in_bytes").write_text(str(256 * MIB))
    except OSError:
        with contextlib.suppress(OSError):
            outer.rmdir()
        pytest.skip("this machine lets us make no control groups of version 1")
    yield inner
    inner.rmdir()
    outer.rmdir()


_IN_A_FULL_GROUP = """\
import asyncio, sys
from inference_service.runtimes.memory import MemoryLimit

GROW = "input(); kept = [b'x' * (1 << 20) for _ in range(4096)]"

async def main():
    pipe = asyncio.subprocess.PIPE
    engine = await asyncio.create_subprocess_exec(sys.executable, "-c", GROW, stdin=pipe)
    limit = MemoryLimit(engine.pid, 8 << 30, 1, groups=sys.argv[1] == "group")
    await engine.communicate(b"go\\n")
    before = limit.exceeded(engine.returncode)
    await limit.aclose()
    print(engine.returncode, before == limit.exceeded(engine.returncode), before)

asyncio.run(main())
"""


@pytest.mark.parametrize("by", ["group", "looks"])
def test_a_limit_above_that_of_the_engine(full: Path, by: str) -> None:
    """The message of an engine that is killed by it has to name that one."""

    def enter() -> None:
        (full / "cgroup.procs").write_text(str(os.getpid()))

    words = [sys.executable, "-c", _IN_A_FULL_GROUP, by]
    ran = subprocess.run(words, capture_output=True, text=True, check=True, preexec_fn=enter)

    assert ran.stdout == f"-9 True the limit of the control group {full.parent}\n"
