"""The daemon of another machine, through the `ssh` program of this one.

The user's own configuration of `ssh` is in force: names, keys, jump hosts, shared connections. It
may ask for nothing, since nobody would answer: a key without a passphrase, or an agent, is needed.
"""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from inference_service.errors import RuntimeUnavailable

# `ssh` gives up a machine that is silent for 10 s at first, and for 15 s later.
_OPTIONS = ("BatchMode=yes", "ConnectTimeout=10", "ServerAliveInterval=5", "ServerAliveCountMax=3")
_MOST = 4096  # bytes that are kept of what `ssh` says
_ENDS = 5.0  # seconds for an `ssh` that was asked to end


@dataclass(frozen=True, slots=True)
class Remote:
    """A machine as `ssh://USER@HOST:PORT` names it; a path is that of its daemon's socket."""

    host: str
    user: str
    port: int | None
    socket: str

    @classmethod
    def of(cls, address: str) -> Remote:
        """Take an address apart. Raises RuntimeUnavailable."""
        try:
            parts = urlsplit(address)
            port = parts.port
        except ValueError as error:
            raise RuntimeUnavailable(error, address) from None
        if not parts.hostname or parts.password or parts.query or parts.fragment:
            raise RuntimeUnavailable("it has to be ssh://USER@HOST:PORT", address)
        host = parts.netloc.rpartition("@")[2]
        if port is not None:
            host = host.rpartition(":")[0]
        user, path = unquote(parts.username or ""), parts.path.rstrip("/")
        return cls(host.strip("[]"), user, port, path)

    def command(self, *options: str, run: tuple[str, ...] = ()) -> list[str]:
        """Return the words of an `ssh` with these options, which runs a program there or none."""
        words = ["ssh", "-T", *options]
        for option in _OPTIONS:
            words += ["-o", option]
        words += ["-l", self.user] if self.user else []
        words += ["-p", str(self.port)] if self.port is not None else []
        return [*words, "--", self.host, *run]

    def daemon(self) -> list[str]:
        """Return the words of an `ssh` that connects its input and output with the daemon."""
        where = ("--host", f"unix://{self.socket}") if self.socket else ()
        return self.command(run=("docker", *where, "system", "dial-stdio"))


class Dialler:
    """A socket of this machine at which the daemon of a remote one answers.

    Each connection is an `ssh` that has the socket as its input and output: no byte passes through
    this process, and the SDK has time limits as with any other socket. The SDK keeps connections
    for its next calls.
    """

    def __init__(self, remote: Remote) -> None:
        self._command = remote.daemon()
        self._folder = tempfile.TemporaryDirectory(prefix="inference-service-")  # nobody else's
        path = Path(self._folder.name, "docker.sock")
        self.url = f"unix://{path}"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._said = ""
        self._closed = False
        threading.Thread(target=self._accept, name="docker-ssh", daemon=True).start()

    def said(self) -> str:
        """Return what the `ssh` that failed last has said, once."""
        with self._lock:
            said, self._said = self._said, ""
        return said

    def close(self) -> None:
        """End all connections."""
        with self._lock:
            self._closed = True
            for process in self._running:
                process.terminate()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._folder.cleanup()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # it was closed
                return
            work = threading.Thread(
                target=self._relay, args=(connection,), name="docker-ssh", daemon=True
            )
            work.start()

    def _relay(self, connection: socket.socket) -> None:
        """Run one `ssh`. The other side sees its end when it is known what it has said."""
        with connection:
            try:
                with self._lock:
                    if self._closed:
                        return
                    process = started(self._command, connection)
                    self._running.add(process)
            except OSError as error:
                self._note(f"ssh cannot be run: {error.strerror}")
                return
            said = ended(process)
            with self._lock:
                self._running.discard(process)
            if process.returncode:
                self._note(said or f"ssh exited with code {process.returncode}")

    def _note(self, said: str) -> None:
        with self._lock:
            self._said = said


def started(command: list[str], connection: socket.socket | None = None) -> subprocess.Popen[bytes]:
    """Start an `ssh` in a session of its own, so that Ctrl-C in the terminal is for the service."""
    pipe = connection.fileno() if connection is not None else subprocess.DEVNULL
    return subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=subprocess.PIPE, start_new_session=True
    )


def ended(process: subprocess.Popen[bytes]) -> str:
    """Wait for the end of an `ssh`, and return the last line that it wrote.

    A shared connection that it has left in the background may hold its standard error open.
    """
    assert process.stderr is not None
    kept = bytearray()
    reading = threading.Thread(
        target=_read, args=(process.stderr.fileno(), kept), name="docker-ssh-words", daemon=True
    )
    reading.start()
    process.wait()
    reading.join(0.5)
    if not reading.is_alive():
        process.stderr.close()
    return last_line(bytes(kept))


def last_line(written: bytes) -> str:
    """Return the last line that has a word in it."""
    lines = written.decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _read(stream: int, kept: bytearray) -> None:
    while data := os.read(stream, 1024):
        kept += data
        del kept[:-_MOST]
