"""What an operator meets: a service that must end, and clients that mean no good."""

from __future__ import annotations

import asyncio
import resource
import signal
import time
from pathlib import Path

import pytest

from tests.rest_bridge.http.client import Client, Serving, post
from tests.test_cli import serving as command
from tests.test_cli import target
from tests.waiting import SLOWLY, within

GET = b"GET /models HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
HALF = {
    "half a head": b"POST /generate HTTP/1.1\r\nHost: 127.0.0.1\r\nConte",
    "half a body": post(b"{", b"Content-Length: 99", b"Content-Type: application/json"),
    "a stream that does not end": b"GET /models:watch HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "nothing": b"",
}


def rest(banner: str) -> Serving:
    line = next(line for line in banner.splitlines() if line.startswith("REST"))
    port = int(line.split()[1].rpartition(":")[2])
    return Serving(None, port)  # type: ignore[arg-type]


@pytest.mark.parametrize("half", HALF.values(), ids=HALF)
async def test_a_client_does_not_hold_the_end_of_the_service(half: bytes) -> None:
    async with (
        command("--drain-timeout", "1") as (process, banner),
        rest(banner).client() as client,
    ):
        await client.send(half)
        process.send_signal(signal.SIGTERM)
        async with within(20, "the service did not end"):
            await process.communicate()

    assert process.returncode == 0


def memory(pid: int) -> int:
    """Return how many MiB a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) // 256


def cpu(pid: int) -> float:
    """Return how many seconds a process has worked."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


async def test_a_thousand_hostile_clients() -> None:
    """Each kind does what has brought servers down. Others are served, and memory is bounded."""
    number = min(1000, (resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 200) // 4)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    kinds = [
        b"GET /models HTTP/1.1\r\nX-A: " + b"a" * 60_000,  # a head without an end
        post(b"a" * 60_000, b"Content-Length: 4000000", b"Content-Type: application/json"),
        GET * 20,  # answers that are not read
        b"GET /models:watch HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n",
        b"",
    ]
    clients: list[Client] = []
    try:
        async with command() as (process, banner):
            face = rest(banner)
            assert (await face.ask(GET)).status == 200
            before = memory(process.pid)
            for count in range(number):
                client = await face.connect(receive_buffer=4096)
                clients.append(client)
                await client.say(kinds[count % len(kinds)])
            async with within(SLOWLY, "others are not served"):
                for _ in range(20):
                    assert (await face.ask(GET)).status == 200
            host, _, port = target(banner).rpartition(":")
            _, writer = await asyncio.open_connection(host, int(port))
            writer.close()
            grown = memory(process.pid) - before
            began, worked = time.monotonic(), cpu(process.pid)
            await asyncio.sleep(1)
            worked = (cpu(process.pid) - worked) / (time.monotonic() - began)
            process.send_signal(signal.SIGTERM)
            async with within(20, "the service did not end"):
                await process.communicate()
    finally:
        for client in clients:
            client.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    print(f"{number} hostile clients: {grown} MiB more, {worked:.0%} of a CPU while they wait")
    assert grown < 100
    assert worked < 0.5
