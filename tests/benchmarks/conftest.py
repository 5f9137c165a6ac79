"""Fixtures: the C programs of the benchmark, compiled once."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import systems
from benchmarks.systems import Running

SOURCES = Path(systems.__file__).parent


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile `engine` and `load` into a folder."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (apt-get install gcc libc6-dev)")
    folder = tmp_path_factory.mktemp("bench")
    for name in ("engine", "load"):
        source = SOURCES / f"{name}.c"
        subprocess.run([compiler, "-O2", "-Werror", "-o", folder / name, source], check=True)
    return folder


@pytest.fixture
def engine(programs: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """Run the engine."""
    monkeypatch.setattr(systems, "BUILD", programs)
    monkeypatch.setattr("benchmarks.load.BUILD", programs)
    with systems.engine() as running:
        yield running
