"""A daemon that is reached through `ssh`, with a real `sshd` where it runs."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from inference_service.errors import LaunchError, RuntimeUnavailable
from inference_service.runtimes.docker.ssh import Remote
from inference_service.runtimes.docker.tunnel import Tunnel
from tests.docker.daemon import Daemon
from tests.docker.needs import require_ssh
from tests.docker.sshd import Sshd
from tests.runtimes import processes
from tests.runtimes.beds import ask
from tests.runtimes.docker.beds import Connect
from tests.waiting import SLOWLY, until, within


@pytest.fixture
def sshd(apart: Daemon, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sshd]:
    require_ssh()
    with Sshd(apart) as sshd:
        monkeypatch.setenv("PATH", f"{sshd.path}:{os.environ['PATH']}")
        yield sshd


def sshs() -> list[int]:
    """List the processes of `ssh` that this one has started."""
    found = processes.with_variable("PYTEST_CURRENT_TEST=")
    return [pid for pid in found if _name(pid) == "ssh"]


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


@pytest.mark.docker
async def test_an_engine_runs_there(connect: Connect, apart: Daemon, sshd: Sshd) -> None:
    bed = await connect(sshd.url, apart.url)
    async with bed.running() as running:
        port = running.instance.port
        assert running.instance.url == f"http://127.0.0.1:{port}"
        for _ in range(3):
            assert await ask(running, "/env/ENGINE_PORT") == "80"
        await bed.write(running, "x" * 100_000)
        assert running.tail(1)
    with pytest.raises(ConnectionRefusedError):  # the tunnel has ended with the run
        await ask(running, "/")
    await bed.close()
    await until(lambda: not sshs(), "an ssh was left")


@pytest.mark.docker
async def test_the_connections_are_used_again(connect: Connect, apart: Daemon, sshd: Sshd) -> None:
    bed = await connect(sshd.url, apart.url)
    before = len(sshs())
    for _ in range(20):
        assert await asyncio.to_thread(bed.connection.client.ping)

    assert len(sshs()) <= before + 1


@pytest.mark.docker
async def test_a_tunnel_that_is_lost_is_made_again(
    connect: Connect, apart: Daemon, sshd: Sshd, caplog: pytest.LogCaptureFixture
) -> None:
    bed = await connect(sshd.url, apart.url)
    async with bed.running() as running:
        sshd.stop()
        assert await _asked(running) == ""  # the port is held, and nobody is behind it
        sshd.start()
        answered = asyncio.create_task(_answered(running))
        async with within(SLOWLY, "the tunnel was not made again"):
            await answered
    assert "the tunnel to" in caplog.text


async def _asked(running: object) -> str:
    try:
        return await ask(running, "/env/ENGINE_PORT")  # type: ignore[arg-type]
    except ConnectionError:
        return ""


async def _answered(running: object) -> None:
    for _ in itertools.count():
        if await _asked(running) == "80":
            return
        await asyncio.sleep(0.05)


@pytest.mark.docker
async def test_what_ssh_says_is_told(connect: Connect, apart: Daemon, sshd: Sshd) -> None:
    bed = await connect(sshd.url, apart.url)
    sshd.stop()
    with pytest.raises(RuntimeUnavailable, match=r"Connection refused|closed by remote host"):
        async with bed.runtime.run(bed.launch()):
            pass
    with pytest.raises(RuntimeUnavailable, match=rf"at {sshd.url} \(ssh: connect.* refused"):
        await connect(sshd.url, apart.url)
    sshd.start()
    with pytest.raises(RuntimeUnavailable, match="dial unix /nothing"):
        await connect(f"ssh://{apart.address}:{sshd.port}/nothing", apart.url)
    with pytest.raises(RuntimeUnavailable, match="Permission denied"):
        await connect(f"ssh://nobody@{apart.address}:{sshd.port}", apart.url)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in the place of `ssh`, which the test has yet to write."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    file = tmp_path / "ssh"
    file.touch(0o755)
    return file


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo nobody knows far >&2; exit 255", "nobody knows far"),
        ("exit 3", "ssh exited with code 3"),
        ("sleep 600 & echo it goes on behind >&2; exit 1", "it goes on behind"),
    ],
)
async def test_a_tunnel_that_cannot_be_made(program: Path, script: str, said: str) -> None:
    program.write_text(f"#!/bin/sh\n{script}\n")
    tunnel = Tunnel(Remote.of("ssh://far"), 0)
    with pytest.raises(LaunchError, match=f"no tunnel to the engine on far: {said}"):
        async with within(SLOWLY, "the tunnel was not given up"):
            await tunnel.open()
    tunnel.close()
    for pid in processes.with_variable(f"PATH={program.parent}:"):
        os.kill(pid, signal.SIGKILL)


def test_the_words_of_ssh() -> None:
    words = Remote.of("ssh://me@Far.example:2200/run/user/1/docker.sock").daemon()

    end = ["-l", "me", "-p", "2200", "--", "Far.example", "docker", "--host"]
    assert words[-11:] == [*end, "unix:///run/user/1/docker.sock", "system", "dial-stdio"]
    assert "BatchMode=yes" in words


@pytest.mark.parametrize("address", ["ssh://", "ssh://me:secret@far", "ssh://far:x", "ssh://far?a"])
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(RuntimeUnavailable):
        Remote.of(address)
