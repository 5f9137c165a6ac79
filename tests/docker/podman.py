"""Podman behind Docker's API, for tests of what it says otherwise."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .daemon import answers
from .waiting import until


@contextmanager
def podman(registry: str) -> Iterator[str]:
    """Run podman with images of its own; yield its URL. It trusts the registry at this address."""
    folder = Path(tempfile.mkdtemp(prefix="podman-"))
    trusted = folder / "registries.conf"
    trusted.write_text(f'[[registry]]\nlocation = "{registry}"\ninsecure = true\n')
    own = ["podman", "--root", f"{folder}/root", "--runroot", f"{folder}/run"]
    command = [*own, "system", "service", "--time=0", f"unix://{folder}/socket"]
    with (folder / "log").open("wb") as log:
        env = {**os.environ, "CONTAINERS_REGISTRIES_CONF": str(trusted)}
        process = subprocess.Popen(command, stderr=log, start_new_session=True, env=env)
    try:
        until(lambda: answers(folder / "socket"), 30, "the start of podman")
        yield f"unix://{folder}/socket"
    finally:
        process.terminate()
        process.wait(timeout=30)
        subprocess.run([*own, "rmi", "--all", "--force"], capture_output=True, check=False)
        shutil.rmtree(folder, ignore_errors=True)
