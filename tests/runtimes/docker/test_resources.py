"""What a daemon has for its containers."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference_service.capacity import memory
from inference_service.capacity.gpus import Gpu
from inference_service.capacity.nodes import LOCAL, Node
from inference_service.runtimes.docker import resources

GPU = Gpu("GPU-a", 24, 20)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 1000 bytes."""

    def least(root: Path = Path("/"), daemon: int = 0) -> memory.Limit:
        limits = [memory.Limit(1000, memory.MACHINE), memory.Limit(daemon or 1001, memory.DAEMON)]
        return min(limits)

    monkeypatch.setattr(memory, "least", least)


@pytest.mark.parametrize(
    ("info", "setting", "expected", "limit"),
    [
        ({"MemTotal": 500}, None, 450, memory.DAEMON),
        ({"MemTotal": 2000}, None, 900, ""),
        ({"MemTotal": 500}, 700, 700, ""),
        ({"MemTotal": 0}, None, 900, ""),  # of a daemon that cannot read its /proc/meminfo
        ({}, None, 900, ""),
    ],
)
def test_a_daemon_here_shares_the_machine(
    info: dict[str, int], setting: int | None, expected: int, limit: str
) -> None:
    assert resources.node(info, [GPU], setting, here=True) == Node(LOCAL, expected, (GPU,), limit)


def test_a_daemon_elsewhere_has_a_machine_of_its_own() -> None:
    node = resources.node({"MemTotal": 5000}, [], None, here=False)
    assert (node.memory_bytes, node.name == LOCAL) == (4500, False)
    assert resources.node({"MemTotal": 5000}, [], 700, here=False).memory_bytes == 700


@pytest.mark.parametrize(("info", "warnings"), [({}, 0), ({"MemoryLimit": False}, 1)])
def test_a_daemon_without_limits_is_told_of(
    caplog: pytest.LogCaptureFixture, info: dict[str, bool], warnings: int
) -> None:
    resources.warn_of_missing_limits(info)
    assert caplog.text.count("containers have no memory limit") == warnings
