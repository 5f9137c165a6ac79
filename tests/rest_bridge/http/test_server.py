"""How the server begins, ends, and sleeps."""

from __future__ import annotations

import asyncio
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rest_bridge.http import Limits, Server, signals
from rest_bridge.http.listener import bind
from tests.rest_bridge.http.app import App
from tests.rest_bridge.http.client import GET, Client, Serving, post, serving
from tests.waiting import PROMPTLY, until, within

SLOW = b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"


async def test_the_end_waits_for_answers_and_for_nothing_else(served: Serving, app: App) -> None:
    slow, fresh, idle, half = [await served.connect() for _ in range(4)]
    await slow.send(SLOW)
    await idle.send(GET)
    await idle.answer()
    await half.send(GET[:20])
    ending = asyncio.create_task(served.server.close(3600))

    for client in (fresh, idle, half):
        assert await client.end() == b""
        client.close()
    assert not ending.done()
    app.go.set()
    answer = await slow.answer()
    assert (answer.json, answer["connection"]) == ({"slow": True}, "close")
    async with within(PROMPTLY, "the server did not end"):
        await ending
    slow.close()


@pytest.mark.parametrize(
    "request_",
    [SLOW, b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n", post(b"[1", b"Content-Length: 9")],
    ids=["an answer", "a stream", "half a body"],
)
async def test_the_end_cuts_what_does_not_end(app: App, request_: bytes) -> None:
    async with serving(app) as served:
        client = await served.connect()
        await client.send(request_)
        async with within(PROMPTLY, "the server did not end"):
            await served.server.close(0.05)
            await client.end()
        client.close()


async def test_a_request_that_is_cut_at_the_end_is_a_503(served: Serving) -> None:
    async with served.client() as client:
        await client.send(SLOW)
        await served.server.close(0.05)

        answer = await client.answer()
    assert (answer.status, "shutting down" in answer.detail) == (503, True)


async def test_a_hurry_ends_the_wait(served: Serving) -> None:
    async with served.client() as client:
        await client.send(SLOW)
        ending = asyncio.create_task(served.server.close(3600))
        await asyncio.sleep(0)
        served.server.hurry()
        async with within(PROMPTLY, "the server did not hurry"):
            await ending


async def test_an_application_that_ignores_its_cancelling_does_not_hold_the_end() -> None:
    go = asyncio.Event()

    async def stubborn(*_: object) -> None:
        while not go.is_set():
            try:
                await go.wait()
            except asyncio.CancelledError:
                continue

    async with serving(stubborn) as served, served.client() as client:
        await client.send(GET)
        async with within(PROMPTLY, "the server did not end"):
            await served.server.close(0)
            await client.end()
        go.set()


async def test_who_has_asked_when_the_server_ends_is_answered(app: App) -> None:
    """Neither the connection nor the request has been looked at when the end begins."""
    async with serving(app) as served, served.client() as client:
        client.sock.send(GET)
        await served.server.close(5)

        answer = await client.answer()
    assert (answer.status, answer["connection"]) == (200, "close")


async def test_who_has_connected_when_the_server_ends_does_not_hold_it(app: App) -> None:
    async with serving(app) as served, served.client() as client:
        async with within(PROMPTLY, "the server did not end"):
            await served.server.close(3600)

        assert await client.end() == b""


class Selector(selectors.DefaultSelector):
    """A selector that reports for how many seconds its loop sleeps; None is without end."""

    report: Callable[[float | None], None] = staticmethod(lambda _: None)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout > 0:
            self.report(timeout)
        return super().select(timeout)


def test_an_idle_server_sleeps_without_end() -> None:
    selector, sleeps = Selector(), list[float | None]()

    async def serve() -> None:
        server, stop, loop = Server(App()), asyncio.Event(), asyncio.get_running_loop()
        server.start([socket.create_server(("127.0.0.1", 0))])

        def end_at_once(timeout: float | None) -> None:
            sleeps.append(timeout)
            loop.call_soon_threadsafe(stop.set)

        selector.report = end_at_once
        await stop.wait()
        await server.close(0)

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        runner.run(serve())

    assert sleeps[0] is None


async def test_a_thousand_requests_set_no_timer(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.send(GET)
    await client.answer()
    loop, made = asyncio.get_running_loop(), list[float]()
    call_at = loop.call_at

    def counted(when: float, *rest: Any, **more: Any) -> asyncio.TimerHandle:
        made.append(when)
        return call_at(when, *rest, **more)

    monkeypatch.setattr(loop, "call_at", counted)
    for _ in range(1000):
        client.sock.send(GET)
        while b"hello" not in client.buffer:
            client.buffer += await loop.sock_recv(client.sock, 65536)
        client.buffer = b""

    assert len(made) < 5


# Connections.


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


# Addresses.


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


# Signals.

_SIGNALLED = """\
import asyncio, runpy, sys, time
stopping = runpy.run_path(sys.argv[4])["stopping"]  # for the package loads FastAPI

async def main():
    stop, hurry = asyncio.Event(), asyncio.Event()
    with stopping(stop.set, hurry.set, grace=float(sys.argv[2]), last=float(sys.argv[3])):
        print("up", flush=True)
        if sys.argv[1] == "hangs":
            time.sleep(3600)
        await stop.wait()
        print("stop", flush=True)
        if sys.argv[1] == "waits":
            await hurry.wait()
            print("hurry", flush=True)

asyncio.run(main())
"""


def _signalled(tmp_path: Path, how: str, grace: str, last: str) -> subprocess.Popen[str]:
    script = tmp_path / "signalled.py"
    script.write_text(_SIGNALLED)
    process = subprocess.Popen(
        [sys.executable, script, how, grace, last, signals.__file__],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_and_a_second_one_hurries(tmp_path: Path, number: signal.Signals) -> None:
    process = _signalled(tmp_path, "waits", "3600", "60")
    assert process.stdout is not None
    process.send_signal(number)
    assert process.stdout.readline() == "stop\n"
    process.send_signal(number)

    assert process.communicate(timeout=20)[0] == "hurry\n"
    assert process.returncode == 0


def test_a_second_signal_ends_a_process_that_hangs(tmp_path: Path) -> None:
    process = _signalled(tmp_path, "hangs", "3600", "0.1")
    process.send_signal(signal.SIGTERM)
    time.sleep(0.1)  # two of the same at once are one
    process.send_signal(signal.SIGTERM)

    _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "time.sleep" in errors or "main" in errors  # where it hung


def test_one_signal_ends_a_process_that_hangs_when_its_time_is_over(tmp_path: Path) -> None:
    process = _signalled(tmp_path, "hangs", "0.1", "0.1")
    process.send_signal(signal.SIGINT)

    process.communicate(timeout=20)
    assert process.returncode == 1
