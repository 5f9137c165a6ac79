"""libgomp, which xllamacpp's wheel needs and lacks."""

import ctypes
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from inference_service.worker import machine

from .conftest import Start

HIDE = ["unshare", "--mount", "sh", "-c"]


def libraries() -> list[Path]:
    """Return every libgomp that a worker could find: the system's, and those in wheels."""
    found = machine.bundled_openmp()
    try:
        ctypes.CDLL("libgomp.so.1")
    except OSError:
        return [found] if found else []
    loaded = re.findall(r"(/\S*libgomp\S*)$", Path("/proc/self/maps").read_text(), re.MULTILINE)
    return [*{Path(path) for path in loaded}, *([found] if found else [])]


@pytest.fixture
def without() -> list[str]:
    """Return the start of a command that hides all of them from the rest of the command."""
    hide = " && ".join(f"mount --bind /dev/null {path}" for path in libraries()) or "true"
    if subprocess.run([*HIDE, hide], capture_output=True, check=False).returncode != 0:
        pytest.skip("hiding the system's libgomp needs root")
    return [*HIDE, f'{hide} && exec "$@"', "sh"]


async def test_a_machine_without_libgomp(start: Start, without: list[str]) -> None:
    code, reason, message = await (await start(*without)).failure()
    assert (code, reason) == (6, "NO_OPENMP")
    assert "apt-get install libgomp1" in message


async def test_a_wheel_with_libgomp(start: Start, without: list[str], tmp_path: Path) -> None:
    system = libraries()[0]
    package = tmp_path / "packages" / "some.libs"
    package.mkdir(parents=True)
    shutil.copy(system, package / "libgomp-870cb1d0.so.1.0.0")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    where = {"PYTHONPATH": str(package.parent), "TMPDIR": str(scratch)}
    worker = await start(*without, **where, LLAMACPP_EXIT_WITH_PARENT="1")
    await worker.until("serving")
    assert f"{package}/libgomp-870cb1d0" in worker.libraries()
    assert list(scratch.iterdir()) == []
    assert worker.process.stdin is not None
    worker.process.stdin.close()  # the setting survives the restart
    assert await worker.exit() == 0
