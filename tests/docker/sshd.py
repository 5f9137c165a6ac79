"""A server of SSH beside a daemon that is apart, as on another machine."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from .daemon import Daemon
from .waiting import until


class Sshd:
    """An `sshd` in the network of a daemon, which lets the user of the tests in by a key.

    `path` is a folder with a program `ssh` that knows the key and the server, to be the first of
    PATH. `url` is the address of the daemon through it. Leaving the `with` block removes all of it.
    """

    port = 2222

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self.url = f"ssh://{daemon.address}:{self.port}{daemon.url.removeprefix('unix://')}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="sshd-"))
        for name in ("host", "user"):
            key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{self._folder}/{name}"]
            subprocess.run(key, check=True)
        self.path = self._folder / "bin"
        self.path.mkdir()
        self._write("known_hosts", f"[{self._daemon.address}]:{self.port} {self._read('host.pub')}")
        self._write("authorized_keys", self._read("user.pub"))
        self._write(
            "sshd_config",
            f"ListenAddress {self._daemon.address}:{self.port}\nHostKey {self._folder}/host\n"
            f"AuthorizedKeysFile {self._folder}/authorized_keys\nPidFile none\n"
            "StrictModes no\nUsePAM no\nPasswordAuthentication no\nLogLevel ERROR\n"
            "MaxStartups 100\nPermitRootLogin yes\n",
        )
        self._write(
            "ssh_config",
            f"IdentityFile {self._folder}/user\nIdentitiesOnly yes\n"
            f"UserKnownHostsFile {self._folder}/known_hosts\nGlobalKnownHostsFile /dev/null\n",
        )
        self._write(
            "bin/ssh", f'#!/bin/sh\nexec {shutil.which("ssh")} -F {self._folder}/ssh_config "$@"\n'
        )
        (self.path / "ssh").chmod(0o755)
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        shutil.rmtree(self._folder)

    def start(self) -> None:
        """Start the server; return when it listens."""
        Path("/run/sshd").mkdir(exist_ok=True)
        command = [*self._daemon.inside, shutil.which("sshd") or "sshd", "-D", "-e"]
        command += ["-f", f"{self._folder}/sshd_config"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stderr=log, start_new_session=True)
        until(self._listens, 10, "the start of sshd")

    def stop(self) -> None:
        """End the server and its connections."""
        if self._process:
            for pid in _descendants(self._process.pid):
                with contextlib.suppress(ProcessLookupError):  # it ended with its parent
                    os.kill(pid, 9)
            self._process.wait()
            self._process = None

    def _listens(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"sshd ended: {self._read('log')}")
        scan = ["ssh-keyscan", "-T", "2", "-p", str(self.port), self._daemon.address]
        return bool(subprocess.run(scan, capture_output=True).stdout)

    def _write(self, name: str, content: str) -> None:
        file = self._folder / name
        file.write_text(content)
        file.chmod(0o600)

    def _read(self, name: str) -> str:
        return (self._folder / name).read_text()


def _descendants(pid: int) -> list[int]:
    """Return a process and all that it has started, the youngest first."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        below = [int(child) for child in children.read_text().split()]
    except OSError:
        below = []
    return [each for child in below for each in _descendants(child)] + [pid]
