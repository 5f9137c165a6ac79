"""The command as a process."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from rest_bridge import Settings
from rest_bridge.cli import main
from tests.rest_bridge.loopback import open_client
from tests.rest_bridge.scripted import ScriptedService, chunk
from tests.waiting import within

RUNNING = re.compile(r"running on (http://127\.0\.0\.1:\d+)")


@asynccontextmanager
async def running(
    *arguments: str, **environment: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """Run a bridge on a free port; yield the process and its URL."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "rest_bridge", "--port", "0", *arguments),
        env=os.environ | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    try:
        log = ""
        while not (found := RUNNING.search(log)):
            line = await process.stdout.readline()
            assert line, log
            log += line.decode()
        yield process, found[1]
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.parametrize("from_environment", [False, True])
async def test_serves_until_a_signal(
    target: str, service: ScriptedService, from_environment: bool
) -> None:
    arguments = [] if from_environment else ["--target", target]
    environment = {"REST_BRIDGE_TARGET": target} if from_environment else {}
    async with running(*arguments, **environment) as (process, url):
        async with open_client(url) as client:
            response = await client.get("/models")
        assert [model["id"] for model in response.json()["models"]] == list(service.models)
        process.send_signal(signal.SIGINT)
        async with within(20, "the bridge did not end after a signal"):
            output, _ = await process.communicate()
    assert process.returncode == 0
    assert b'"GET /models HTTP/1.1" 200' in output
    assert b"Traceback" not in output


async def test_a_second_signal_ends_the_bridge_at_once(
    target: str, service: ScriptedService
) -> None:
    service.steps = [chunk("Once"), asyncio.Event()]
    body = {"model_id": "gpt-2", "prompt": "Once"}
    async with (
        running("--target", target, "--shutdown-timeout-seconds", "3600") as (process, url),
        open_client(url) as client,
        client.stream("POST", "/generate_stream", json=body) as response,
    ):
        text = response.aiter_raw()
        await anext(text)
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        while b"waiting for open connections: 1" not in (line := await process.stdout.readline()):
            assert line

        process.send_signal(signal.SIGINT)
        async with within(20, "the bridge did not end after a second signal"):
            await process.communicate()

    assert process.returncode == 0


async def test_who_may_call_is_set_for_the_bridge_alone(target: str) -> None:
    allowed = {"REST_BRIDGE_ALLOWED_HOST": "llm,gpu-box"}
    flags = ("--target", target, "--cors-origin", "https://a.example")
    async with running(*flags, **allowed) as (_, url), open_client(url) as client:
        for host, status in (("llm", 200), ("gpu-box:80", 200), ("evil.test", 421)):
            answer = await client.get("/models", headers={"Host": host})
            assert answer.status_code == status
        for origin, status in (("https://a.example", 404), ("https://b.example", 403)):
            answer = await client.post("/models/gpt-2/stop", headers={"Origin": origin})
            assert answer.status_code == status


@pytest.mark.parametrize("seen", [False, True])
async def test_the_access_log_can_be_turned_off(target: str, seen: bool) -> None:
    option = "--access-log" if seen else "--no-access-log"
    async with running("--target", target, option) as (process, url):
        async with open_client(url) as client:
            await client.get("/models")
        process.send_signal(signal.SIGTERM)
        async with within(20, "the bridge did not end after a signal"):
            output, _ = await process.communicate()

    assert (b'"GET /models HTTP/1.1" 200' in output) == seen


async def test_half_a_request_does_not_hold_the_end(target: str) -> None:
    async with running("--target", target, "--shutdown-timeout-seconds", "1") as (process, url):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
        await writer.drain()
        process.send_signal(signal.SIGTERM)
        async with within(20, "the bridge did not end after a signal"):
            await process.communicate()
            with contextlib.suppress(ConnectionResetError):  # where its bytes were not read
                await reader.read()
        writer.close()

    assert process.returncode == 0


@pytest.mark.parametrize(
    ("host", "cause"),
    [("nonsense.invalid", "not known"), ("192.0.2.1", "assign requested address")],
)
def test_an_address_on_which_nothing_can_listen(
    host: str, cause: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--host", host])

    assert f"rest-bridge: cannot listen on {host}, port 8000: " in str(exit_.value.code)
    assert cause in str(exit_.value.code)


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit, match=f"port {port}: Address already in use"):
            main(["--port", str(port)])


async def test_a_proxy_of_the_environment_is_not_used(target: str) -> None:
    proxy = {"http_proxy": "http://127.0.0.1:1", "https_proxy": "http://127.0.0.1:1"}
    async with (
        running("--target", target, no_proxy="", **proxy) as (_, url),
        open_client(url) as client,
    ):
        assert (await client.get("/models")).status_code == 200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "many"], "rest-bridge: --port: "),
        (["--port", "65536"], "rest-bridge: --port: "),
        (["--keep-alive-seconds", "0"], "rest-bridge: --keep-alive-seconds: "),
        (["--cors-origin", "a.example"], "rest-bridge: --cors-origin: must be an origin such as"),
        (["--allowed-host", "a:80"], "rest-bridge: --allowed-host: must be a host such as"),
        (["--trusted-proxy", "*"], "rest-bridge: --trusted-proxy: must be an address or a network"),
        *(
            (["--target", target], "rest-bridge: --target: must be HOST:PORT or unix:/PATH, not ")
            for target in ("", "localhost", "http://a:1", "tcp://a:1", "127.0.0.1: 1", "a:1/b")
        ),
        (["--speed", "9"], "unrecognized arguments: --speed 9"),
    ],
)
def test_wrong_arguments(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "target", ["a:1", "[::1]:1", "unix:/run/a", "unix:///run/a", "dns:///a:1", "ipv4:1.2.3.4:5"]
)
def test_targets(target: str) -> None:
    assert Settings(target=target).target == target


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')}" in text
    assert "REST_BRIDGE_" in text
