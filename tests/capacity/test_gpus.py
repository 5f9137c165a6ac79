"""The GPUs that `nvidia-smi` reports, with a program in its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference_service.capacity.gpus import Gpu, GpuError, find

MIB = 2**20
TWO = "GPU-1f4c, 24564\nGPU-9a07, 81559"


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of `nvidia-smi`; there is no program yet."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path / "nvidia-smi"


def install(driver: Path, answer: str) -> None:
    """Put a program in place that answers this, and only to the service's question."""
    arguments = "--query-gpu=uuid,memory.total --format=csv,noheader,nounits"
    driver.write_text(f"#!/bin/sh\n[ \"$*\" = {arguments!r} ] && echo '{answer}'\n")
    driver.chmod(0o755)


async def test_the_driver_reports_the_gpus(driver: Path) -> None:
    install(driver, TWO)

    assert await find() == (
        Gpu("GPU-1f4c", 24564 * MIB, 24564 * MIB),
        Gpu("GPU-9a07", 81559 * MIB, 81559 * MIB),
    )


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ([20 * 10**9], [20 * 10**9, 20 * 10**9]),
        ([20 * 10**9, 40 * 10**9], [20 * 10**9, 40 * 10**9]),
        ([10**12], [24564 * MIB, 81559 * MIB]),
    ],
)
async def test_models_may_fill_gpus_up_to_the_setting(
    driver: Path, limits: list[int], expected: list[int]
) -> None:
    install(driver, TWO)
    found = await find(limits)

    assert [gpu.limit_bytes for gpu in found] == expected
    assert [gpu.memory_bytes for gpu in found] == [24564 * MIB, 81559 * MIB]


async def test_sizes_for_more_gpus_than_there_are_are_refused(driver: Path) -> None:
    install(driver, TWO)
    with pytest.raises(GpuError, match="has 3 sizes, and the GPUs of this machine are 2"):
        await find([10**9] * 3)


async def test_no_driver_means_no_gpus(driver: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert await find() == ()
    assert caplog.text == ""


async def test_without_a_driver_the_gpus_are_those_of_the_setting(driver: Path) -> None:
    assert await find([10**9, 2 * 10**9]) == (Gpu("0", 10**9, 10**9), Gpu("1", *[2 * 10**9] * 2))


@pytest.mark.parametrize(
    "answer",
    ["NVIDIA-SMI has failed", "No devices were found", "GPU-1f4c, [N/A]", f"{TWO}\nGPU-1, 2, 3"],
)
async def test_a_driver_that_reports_no_memory_is_logged(
    driver: Path, answer: str, caplog: pytest.LogCaptureFixture
) -> None:
    install(driver, answer)

    assert await find() == ()
    assert answer in caplog.text


async def test_a_driver_that_hangs(driver: Path, caplog: pytest.LogCaptureFixture) -> None:
    driver.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    driver.chmod(0o755)

    assert await find(timeout=0.2) == ()
    assert "has not answered within 0.2 s" in caplog.text
