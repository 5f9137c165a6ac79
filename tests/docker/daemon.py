"""Private Docker daemons, for tests that stop or kill one, or fill its disk."""

import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from docker import DockerClient

from . import certificates
from .waiting import until


def answers(path: Path) -> bool:
    """Return whether a daemon listens at this socket and is ready.

    The question is asked without the SDK, which leaves a socket open where nothing listens.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        try:
            connection.connect(str(path))
            connection.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b" 200 OK" in connection.recv(64)
        except OSError:
            return False


class Daemon:
    """A private daemon beside that of the machine.

    Leaving the `with` block removes all of it. The daemon has its own bridge, disk and socket. It
    leaves the packet filter alone, because a second daemon would delete the port mappings of the
    first. Ports published on 127.0.0.1 work; containers cannot reach other machines. The daemon
    starts without images: give its `client` to a function of `images`, or let it pull from a
    `Registry`.

    Args:
        live_restore: Containers survive `stop` and `kill`, and the next `start` finds them running.
        disk_bytes: The size of its disk, in memory; without it, the disk of the machine.
        nvidia: The daemon gives GPUs, though there are none: by a hook that does nothing.
        apart: It has a network namespace of its own, as one in a container or a machine has, where
            containers reach each other whatever the packet filter of this machine says. `address`
            is that of the daemon's side, reached by a cable.
        tls: It listens at `tls_url` too, for clients with the certificates of `folder`.
        flags: More arguments of `dockerd`.
    """

    def __init__(
        self,
        *,
        live_restore: bool = False,
        disk_bytes: int | None = None,
        nvidia: bool = False,
        apart: bool = False,
        tls: bool = False,
        flags: Sequence[str] = (),
    ) -> None:
        self._apart = apart
        self._tls = tls
        self._flags = flags
        self._live_restore = live_restore
        self._disk_bytes = disk_bytes
        self._nvidia = nvidia
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        # A short path: the path of a socket may have 107 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="dockerd-"))
        self._data = self.folder / "data"
        self._data.mkdir()
        self.url = f"unix://{self.folder}/docker.sock"
        if self._nvidia:  # the daemon looks for it in its PATH when it starts
            hook = self.folder / "bin" / "nvidia-container-runtime-hook"
            hook.parent.mkdir()
            hook.write_text("#!/bin/sh\n")
            hook.chmod(0o755)
        self._namespace = self.folder.name if self._apart else None
        if self._namespace is not None:
            subprocess.run(["ip", "netns", "add", self._namespace], check=True)
            self.run("ip", "link", "set", "lo", "up")
            self.address = _cable(self._namespace)
        self.bridge = self._new_bridge()
        if self._tls:
            certificates.make(self.folder, self.address)
            self.tls_url = f"tcp://{self.address}:2376"
        if self._disk_bytes:
            size = f"size={self._disk_bytes}"
            subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", self._data], check=True)
        try:
            self.start()
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
        self.wake()
        # Only a running daemon can remove the containers of one that was killed.
        self.start()
        for container in self.client.containers.list(all=True, ignore_removed=True):
            container.remove(force=True)
        self.client.close()
        self.stop()
        self._remove()

    def start(self) -> None:
        """Start the daemon unless it runs; return when it answers. The client stays usable."""
        if self._process:
            return
        run = self.folder / "run"
        for stale in (self.folder / "pid", run / "containerd" / "containerd.pid"):
            stale.unlink(missing_ok=True)
        command = ["dockerd", "--data-root", str(self._data), "--exec-root", str(run)]
        command += ["--pidfile", str(self.folder / "pid"), "--host", self.url]
        command += ["--bridge", self.bridge, "--iptables=false", "--ip-masq=false"]
        command += ["--live-restore"] if self._live_restore else []
        if self._tls:
            command += [
                "--host",
                self.tls_url,
                "--tlsverify",
                "--tlscacert",
                f"{self.folder}/ca.pem",
            ]
            command += ["--tlscert", f"{self.folder}/server.pem"]
            command += ["--tlskey", f"{self.folder}/server-key.pem"]
        command = [*self.inside, *command, *self._flags]
        env = {**os.environ, "PATH": f"{self.folder}/bin:{os.environ['PATH']}"}
        with (self.folder / "log").open("ab") as log:
            # A session of its own: Ctrl-C in the terminal is for the tests, which stop the daemon.
            self._process = subprocess.Popen(command, stderr=log, start_new_session=True, env=env)
        until(self._ready, 30, "the start of dockerd")

    def stop(self) -> None:
        """Stop the daemon by SIGTERM; without `live_restore` its containers are stopped too."""
        if self._process:
            self._process.terminate()
            self._process.wait(timeout=30)
            self._process = None

    def kill(self) -> None:
        """Kill the daemon; its containers run on."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def hang(self) -> None:
        """Let the daemon hang: who connects gets no answer, and its containers run on."""
        if self._process:
            self._process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        """Let the daemon go on, with all that it was asked meanwhile."""
        if self._process:
            self._process.send_signal(signal.SIGCONT)

    def _ready(self) -> bool:
        if self._process and self._process.poll() is not None:
            self._process = None
            raise RuntimeError(f"dockerd ended: {(self.folder / 'log').read_text()[-2000:]}")
        return answers(self.folder / "docker.sock")

    def _remove(self) -> None:
        self.kill()
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for mount in reversed(mounts):
            if Path(mount).is_relative_to(self.folder):
                subprocess.run(["umount", mount], check=True)
        self.run("ip", "link", "delete", self.bridge)
        if self._namespace is not None:
            subprocess.run(["ip", "netns", "delete", self._namespace], check=True)
        shutil.rmtree(self.folder)

    def run(self, *command: str) -> str:
        """Run a command in the network of the daemon, and return its output."""
        done = subprocess.run([*self.inside, *command], check=True, capture_output=True)
        return done.stdout.decode()

    @property
    def inside(self) -> list[str]:
        """The words before a command by which it runs in the network of the daemon."""
        # Not `ip netns exec`, which mounts another /sys, without the control groups.
        return ["nsenter", f"--net=/run/netns/{self._namespace}"] if self._namespace else []

    def _new_bridge(self) -> str:
        """Make a bridge with a number that no other one has, and return its name."""
        for number in itertools.count():
            name = f"tests{number}"
            add = [*self.inside, "ip", "link", "add", name, "type", "bridge"]
            made = subprocess.run(add, capture_output=True)
            if made.returncode == 0:
                break
            if b"exists" not in made.stderr:
                raise RuntimeError(f"no bridge could be made: {made.stderr.decode().strip()}")
        self.run("ip", "address", "add", f"10.213.{number}.1/24", "dev", name)
        self.run("ip", "link", "set", name, "up")
        return name


def _cable(namespace: str) -> str:
    """Lay a cable from this machine into a namespace, and return the address of its other end."""
    for number in itertools.count():
        name = f"cable{number}"
        add = ["ip", "link", "add", name, "type", "veth", "peer", "name", "cable"]
        made = subprocess.run([*add, "netns", namespace], capture_output=True)
        if made.returncode == 0:
            break
        if b"exists" not in made.stderr:
            raise RuntimeError(f"no cable could be laid: {made.stderr.decode().strip()}")
    for side, device, inside in ((1, name, []), (2, "cable", ["-n", namespace])):
        address = f"10.214.{number}.{side}/24"
        subprocess.run(["ip", *inside, "address", "add", address, "dev", device], check=True)
        subprocess.run(["ip", *inside, "link", "set", device, "up"], check=True)
    return f"10.214.{number}.2"
