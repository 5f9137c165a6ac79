"""Podman's API of Docker, for tests on a daemon that is none of Docker's."""

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from docker import DockerClient

from .daemon import answers, unmount_below
from .waiting import until

# Podman raises limits of processes that a machine may keep even from root; and its own `crun` takes
# no hybrid of both versions of control groups, which `runc` does.
_RUNTIME = """\
#!{python}
import json, os, sys
for word, folder in zip(sys.argv, sys.argv[1:]):
    if word in ("-b", "--bundle"):
        path = os.path.join(folder, "config.json")
        with open(path) as file:
            specification = json.load(file)
        specification["process"].pop("rlimits", None)
        with open(path, "w") as file:
            json.dump(specification, file)
os.execvp("runc", ["runc", *sys.argv[1:]])
"""


class Podman:
    """Podman's service as root, with images, containers and a socket of its own.

    Its network is podman's default one, which is made with the first container. It trusts the
    `registry` at this address. Leaving the `with` block removes all of it.
    """

    def __init__(self, registry: str = "127.0.0.1:5000") -> None:
        self._registry = registry

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="podman-"))
        runtime = self.folder / "runtime"
        runtime.write_text(_RUNTIME.format(python=sys.executable))
        runtime.chmod(0o755)
        trusted = self.folder / "registries.conf"
        trusted.write_text(f'[[registry]]\nlocation = "{self._registry}"\ninsecure = true\n')
        env = {**os.environ, "CONTAINERS_REGISTRIES_CONF": str(trusted)}
        socket = self.folder / "podman.sock"
        self.url = f"unix://{socket}"
        command = ["podman", "--root", f"{self.folder}/data", "--runroot", f"{self.folder}/run"]
        command += ["--cgroup-manager", "cgroupfs", "--runtime", str(runtime)]
        command += ["--events-backend", "file", "system", "service", "--time", "0", self.url]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stderr=log, start_new_session=True, env=env)
        try:
            until(lambda: answers(socket), 30, "the start of podman")
        except BaseException:
            self._remove()
            raise
        self.client = DockerClient(base_url=self.url)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for container in self.client.containers.list(all=True, ignore_removed=True):
            container.remove(force=True)
        self.client.close()
        self._remove()

    def _remove(self) -> None:
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=10)
        self._process.kill()
        self._process.wait()
        unmount_below(self.folder)
        shutil.rmtree(self.folder)
