"""A daemon that is absent, hangs, or goes away and comes back."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from docker import DockerClient

from inference_service.errors import RuntimeUnavailable, StopFailed
from inference_service.runtimes.base import Exit, Running
from inference_service.runtimes.docker import runtime as docker
from inference_service.runtimes.ports import Ports
from tests.docker.daemon import Daemon
from tests.docker.needs import require_private_daemon
from tests.runtimes.beds import DockerBed
from tests.runtimes.docker.beds import Open, copy_image, pull
from tests.runtimes.tap import Tap
from tests.waiting import PROMPTLY, SLOWLY, until, within

pytestmark = pytest.mark.docker


async def connect(ports: Ports, keys: Path) -> docker.DockerRuntime:
    return await docker.connect(
        ports, service="s", volume="v", pull_policy="never", memory_bytes=10**9, keys=keys
    )


async def test_no_daemon(ports: Ports, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none")
    with pytest.raises(RuntimeUnavailable, match="No such file"):
        await connect(ports, tmp_path)


@pytest.mark.slow
async def test_a_daemon_that_hangs(
    ports: Ports, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/silent")
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(f"{tmp_path}/silent")
        silent.listen()
        connecting = asyncio.create_task(connect(ports, tmp_path))
        done, _ = await asyncio.wait([connecting], timeout=15)
    assert done, "the connection was not given up within 15 s"
    with pytest.raises(RuntimeUnavailable):
        await connecting


class _Stranger(BaseHTTPRequestHandler):
    """A server that is no Docker daemon: it says the same on each path."""

    says = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.says)))
        self.end_headers()
        self.wfile.write(self.says)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    "says",
    [
        "<html>",
        "",
        "null",
        "[]",
        '"text"',
        "{}",
        '{"ApiVersion": 5}',
        '{"ApiVersion": "x"}',
        '{"ApiVersion": "1.41"}',
        '{"ApiVersion": "1.41", "Id": "no container"}',
        '{"ApiVersion": "1.41"',
    ],
)
async def test_a_server_that_is_no_daemon(
    says: str, ports: Ports, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(_Stranger, "says", says.encode())
    with ThreadingHTTPServer(("127.0.0.1", 0), _Stranger) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{server.server_port}")
        try:
            with pytest.raises(RuntimeUnavailable, match=r"something else than Docker|Version"):
                await connect(ports, tmp_path)
        finally:
            server.shutdown()


async def test_connect_to_the_daemon_of_the_machine(
    docker_client: DockerClient, ports: Ports, tmp_path: Path
) -> None:
    runtime = await connect(ports, tmp_path)
    await runtime.aclose()

    assert "GPU" in runtime.describe()


async def test_the_daemon_is_away_and_comes_back(open_bed: Open, daemon: Daemon) -> None:
    bed = open_bed(url=daemon.url)
    await asyncio.to_thread(daemon.stop)
    with pytest.raises(RuntimeUnavailable):
        await pull(bed, bed.image)
    with pytest.raises(RuntimeUnavailable):
        async with bed.runtime.run(bed.launch()):
            pass

    await asyncio.to_thread(daemon.start)
    async with bed.running():
        pass


async def test_the_daemon_goes_during_a_start(open_bed: Open, daemon: Daemon, free: int) -> None:
    class Deadly(Ports):
        @contextmanager
        def claim(self, avoid: frozenset[int] = frozenset()) -> Iterator[int]:
            with super().claim(avoid) as port:
                daemon.kill()
                yield port

    bed = open_bed(Deadly(free, free), url=daemon.url)
    with pytest.raises(RuntimeUnavailable):
        async with bed.runtime.run(bed.launch()):
            pass

    daemon.start()
    assert bed.left(bed.launch()) == []


async def test_the_daemon_goes_during_a_pull(open_bed: Open, daemon: Daemon, pushed: str) -> None:
    bed = open_bed(url=daemon.url, pull_policy="missing")
    address, _, name = pushed.partition("/")
    async with Tap(address, 4_000_000) as tap:
        pulling = asyncio.create_task(pull(bed, f"{tap.address}/{name}"))
        async with within(SLOWLY, "the pull did not come through the tap"):
            await tap.held.wait()
        daemon.kill()
        with pytest.raises(RuntimeUnavailable):
            async with within(SLOWLY, "the pull did not end with its daemon"):
                await pulling


@asynccontextmanager
async def not_removed(bed: DockerBed, daemon: Daemon) -> AsyncGenerator[Running]:
    """Run an engine whose daemon is away at the removal, and comes back afterwards."""
    launch = bed.launch()
    with pytest.raises(StopFailed, match=f"docker rm -f {bed.name(launch)}"):
        async with bed.runtime.run(launch) as running:
            await bed.serves(running)
            waiting = asyncio.create_task(running.wait())
            await asyncio.to_thread(daemon.stop)
    assert bed.runtime.removal_pending(launch.key)

    await asyncio.to_thread(daemon.start)
    yield running
    async with within(PROMPTLY, "the end of the engine was not reported"):
        assert isinstance(await waiting, Exit)
    assert not bed.runtime.removal_pending(launch.key)
    assert bed.left(launch) == []


async def test_the_daemon_is_away_at_the_stop_and_removes_when_it_is_back(
    open_bed: Open, daemon: Daemon
) -> None:
    bed = open_bed(url=daemon.url, removal_interval=0.05)
    async with not_removed(bed, daemon):
        await until(
            lambda: not bed.runtime.removal_pending(bed.launch().key),
            "the container was not removed",
        )


async def test_an_engine_that_could_not_be_removed_can_be_adopted(
    open_bed: Open, daemon: Daemon
) -> None:
    bed = open_bed(url=daemon.url)
    async with not_removed(bed, daemon) as before:
        old = bed.inspect(before)["Id"]
        async with bed.running() as after:
            assert bed.inspect(after)["Id"] == old
            assert not removals()


async def test_a_runtime_that_is_closed_gives_up_retries(open_bed: Open, daemon: Daemon) -> None:
    bed = open_bed(url=daemon.url)
    with pytest.raises(StopFailed):
        async with bed.running():
            await asyncio.to_thread(daemon.stop)
    assert removals()
    await bed.runtime.aclose()

    assert not removals()
    await asyncio.to_thread(daemon.start)


def removals() -> list[asyncio.Task[Any]]:
    """List the tasks of pending removals."""
    return [task for task in asyncio.all_tasks() if task.get_name().startswith("removal of ")]


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_an_engine_outlives_the_daemon(open_bed: Open, daemon: Daemon, how: str) -> None:
    bed = open_bed(url=daemon.url)
    async with bed.running() as running:
        waiting = asyncio.create_task(running.wait())
        await bed.write(running, "before")
        follows = within(SLOWLY, "the reader of the log did not get the line after the restart")
        async with follows, aclosing(running.logs()) as lines:
            seen = [await anext(lines), await anext(lines)]
            await asyncio.to_thread(getattr(daemon, how))
            await asyncio.to_thread(daemon.start)
            await bed.write(running, "after")
            seen.append(await anext(lines))
        assert not waiting.done()
        await bed.end(running, 3)

        async with within(SLOWLY, "the end of the engine was not reported"):
            assert await waiting == Exit(3)
        assert running.tail(9) == ("serving", "before", "after") == tuple(seen)


async def test_an_engine_dies_while_the_daemon_is_away(open_bed: Open, daemon: Daemon) -> None:
    bed = open_bed(url=daemon.url)
    async with bed.running() as running:
        waiting = asyncio.create_task(running.wait())
        await asyncio.to_thread(daemon.stop)
        for pid in bed.processes(running):
            os.kill(pid, 9)
        await asyncio.to_thread(daemon.start)

        async with within(PROMPTLY, "the end of the engine was not reported"):
            assert (await waiting).code == 137


async def test_an_engine_ends_with_a_daemon_that_takes_it_along(
    docker_client: DockerClient, image: str, open_bed: Open
) -> None:
    require_private_daemon()
    with Daemon() as daemon:
        copy_image(docker_client, image, daemon)
        bed = open_bed(url=daemon.url)
        async with bed.running() as running:
            waiting = asyncio.create_task(running.wait())
            await asyncio.to_thread(daemon.stop)
            await asyncio.to_thread(daemon.start)

            async with within(PROMPTLY, "the end of the engine was not reported"):
                assert (await waiting).code == 143
        await bed.close()
