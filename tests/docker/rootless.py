"""A rootless Docker daemon, for tests without control groups and in networks that nobody sees."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from docker import DockerClient

from .daemon import answers, unmount_below
from .waiting import until

SCRIPT = "/usr/share/docker.io/contrib/dockerd-rootless.sh"  # of Debian's package

_USER = "rootless-docker"
# Open to all users by udev, and to root alone on a machine without it.
_TUN = Path("/dev/net/tun")


class Rootless:
    """A daemon of a user who is not root, whom the `with` block makes and removes."""

    def __enter__(self) -> Self:
        made = ["useradd", "--system", "--add-subids-for-system", "--no-create-home", _USER]
        subprocess.run(made, check=True)
        self._tun = _TUN.stat().st_mode & 0o777
        _TUN.chmod(0o666)
        self.folder = Path(tempfile.mkdtemp(prefix="rootless-"))
        user = pwd.getpwnam(_USER)
        os.chown(self.folder, user.pw_uid, user.pw_gid)
        socket = self.folder / "docker.sock"
        self.url = f"unix://{socket}"
        environment = {"XDG_RUNTIME_DIR": str(self.folder), "HOME": str(self.folder)}
        environment["PATH"] = "/usr/sbin:/sbin:/usr/bin:/bin"
        command = [SCRIPT, "--data-root", f"{self.folder}/data", "--iptables=false"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=environment,
                user=user.pw_uid,
                group=user.pw_gid,
                extra_groups=[],
            )
        try:
            until(lambda: self._ready(socket), 60, "the start of the rootless dockerd")
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

    def _ready(self, socket: Path) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError(f"it ended: {(self.folder / 'log').read_text()[-2000:]}")
        return answers(socket)

    def _remove(self) -> None:
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=20)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        unmount_below(self.folder)
        shutil.rmtree(self.folder)
        _TUN.chmod(self._tun)
        subprocess.run(["userdel", _USER], check=True)
