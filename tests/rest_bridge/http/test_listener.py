"""Who is accepted, and where."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from rest_bridge.http import Limits, Server
from rest_bridge.http.listener import bind
from tests.rest_bridge.http.app import App
from tests.rest_bridge.http.client import GET, Client, serving
from tests.waiting import until

SLOW = b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"


async def test_an_idle_client_makes_room_for_a_new_one(app: App) -> None:
    """21,000 idle connections kept all others out, until their time was over."""
    async with serving(app, Limits(connections=8)) as served:
        idle = [await served.connect() for _ in range(8)]
        for client in idle:
            await client.send(GET)
            await client.answer()

        assert (await served.ask(GET)).status == 200
        assert await idle[0].end() == b""
        await idle[7].send(GET)
        assert (await idle[7].answer()).status == 200
        for client in idle:
            client.close()


async def test_too_many_busy_clients_are_refused_with_a_sentence(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(app, Limits(connections=8, linger_seconds=0.1)) as served:
        busy = [await served.connect() for _ in range(8)]
        for client in busy:
            await client.send(SLOW)
        answers = [await served.ask(GET) for _ in range(20)]
        app.go.set()
        for client in busy:
            assert (await client.answer()).status == 200
            client.close()
        await until(lambda: served.server.connections < 8, "the connections are not closed")
        assert (await served.ask(GET)).status == 200

    assert {(a.status, a["retry-after"]) for a in answers} == {(503, "1")}
    assert "connections" in answers[0].detail
    assert caplog.text.count("refused a request") < 3


async def test_far_too_many_connections_are_closed_at_once(app: App) -> None:
    async with serving(app, Limits(connections=8)) as served:
        clients = [await served.connect() for _ in range(200)]
        for client in clients[:8]:
            await client.send(SLOW)
        for client in clients[8:]:
            await client.say(GET)
        assert served.server.connections <= 8 + 64
        for client in clients:
            client.close()


def test_a_server_without_files_waits_and_serves_on(tmp_path: Path) -> None:
    """asyncio wrote 2,048 tracebacks a second, at 63 % CPU (cpython#151615)."""
    script = tmp_path / "few_files.py"
    script.write_text(_FEW_FILES)
    done = subprocess.run(
        [sys.executable, script],
        env=os.environ | {"PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stdout) == (0, "200\n"), done.stderr
    assert 0 < done.stderr.count("cannot accept connections: Too many open files") < 6, done.stderr
    assert len(done.stderr) < 2000, done.stderr


_FEW_FILES = """\
import asyncio, os, resource, socket
from rest_bridge.http import Limits, Server
from tests.rest_bridge.http.app import App
from tests.rest_bridge.http.client import GET, Client

async def main():
    server = Server(App(), Limits(connections=1000))
    (listener,) = [socket.create_server(("127.0.0.1", 0))]
    address = listener.getsockname()
    server.start([listener])
    used = []
    waiting = [socket.socket() for _ in range(3)]
    try:
        while True:
            used.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    loop = asyncio.get_running_loop()
    for sock in waiting:
        sock.setblocking(False)
        await loop.sock_connect(sock, address)
    await asyncio.sleep(1.5)
    for file in used:
        os.close(file)
    client = Client(waiting[2])
    await client.send(GET)
    print((await client.answer()).status)
    await server.close(0)

resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
asyncio.run(main())
"""


def test_half_of_the_files_are_left_for_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    async def connections() -> int:
        server = Server(App(), Limits(reserved_files=100))
        server.start([])
        return server._shared.connections

    monkeypatch.setattr("resource.getrlimit", lambda _: (1100, 1100))
    assert asyncio.run(connections()) == 500


def test_a_name_of_two_addresses_is_served_on_both() -> None:
    sockets = bind("localhost", 0)
    names = {sock.getsockname()[0] for sock in sockets}
    ports = {sock.getsockname()[1] for sock in sockets}
    for sock in sockets:
        sock.close()

    assert "127.0.0.1" in names
    assert len(ports) == 1


def test_an_address_that_is_taken_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        bind("127.0.0.1", taken.getsockname()[1])


async def test_a_unix_socket(app: App, tmp_path: Path) -> None:
    server = Server(app)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    server.start([listener])
    sock = socket.socket(socket.AF_UNIX)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, str(tmp_path / "socket"))
    client = Client(sock)
    await client.send(b"GET /scope HTTP/1.1\r\nHost: x\r\n\r\n")

    assert (await client.answer()).json["client"] is None
    client.close()
    await server.close(0)
