"""Who holds a port: the processes of a session and their children, or a stranger."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from inference_service.runtimes import listeners

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc is that of Linux")

HOLDER = """
import os, socket, sys
address, port, uid = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
if uid:
    os.setuid(uid)
if ":" in address:
    server = socket.socket(socket.AF_INET6)
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
else:
    server = socket.socket()
server.bind((address, port))
server.listen()
print(server.getsockname()[1], flush=True)
sys.stdin.read()
"""

# Each runs HOLDER: itself, as a child, as a child in a session of its own, and as an orphan.
_CHILD = (
    "import subprocess, sys\nsubprocess.run([sys.executable, '-c', sys.argv[-1], *sys.argv[1:-1]]"
)
WAYS = {
    "itself": HOLDER,
    "child": f"{_CHILD})",
    "session": f"{_CHILD}, start_new_session=True)",
    "orphan": "import os, sys\nif os.fork() == 0 and os.fork() > 0: os._exit(0)\n"
    "if os.getpid() != os.getsid(0):\n"
    "    os.execv(sys.executable, [sys.executable, '-c', sys.argv[-1], *sys.argv[1:-1]])\n"
    "sys.stdin.read()",
}


@contextmanager
def holder(
    address: str = "127.0.0.1", port: int = 0, way: str = "itself", uid: int = 0
) -> Generator[tuple[int, int]]:
    """Run a program that listens, and give its pid and port."""
    words = [sys.executable, "-c", WAYS[way], address, str(port), str(uid), HOLDER]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        words, stdin=pipe, stdout=pipe, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        yield process.pid, int(process.stdout.readline())
        assert process.stdin is not None
        process.stdin.close()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::", "::ffff:127.0.0.1"])
def test_a_port_of_a_session(address: str, way: str) -> None:
    with holder(address, way=way) as (pid, port):
        assert listeners.held(pid, port) is True


def test_a_port_of_nobody() -> None:
    with holder() as (pid, port):
        pass
    assert listeners.held(os.getpid(), port) is False
    assert listeners.held(pid, port) is False


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::"])
def test_a_port_of_a_stranger(address: str) -> None:
    with holder() as (pid, _), holder(address) as (_, port):
        assert listeners.held(pid, port) is False


def test_a_port_that_ours_has_elsewhere_and_a_stranger_here() -> None:
    with holder("127.0.0.2") as (pid, port), holder("127.0.0.1", port):
        assert listeners.held(pid, port) is False


def test_a_port_that_is_bound_and_does_not_listen() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        assert listeners.held(os.getpid(), bound.getsockname()[1]) is False


@pytest.mark.skipif(os.geteuid() != 0, reason="another user needs root")
def test_a_port_of_another_user() -> None:
    with holder() as (pid, _), holder(uid=54321) as (_, port):
        assert listeners.held(pid, port) is False


def test_among_many_connections() -> None:
    with ExitStack() as stack, holder() as (pid, port):
        for _ in range(100):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        assert listeners.held(pid, port) is True


def test_where_there_is_no_proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(listeners, "_PROC", tmp_path)
    assert listeners.held(os.getpid(), 1) is None
