"""The way to engines of daemons here and elsewhere, of which some have the same addresses."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from docker import DockerClient

from inference_service.errors import LaunchError, NetworkUnusable, RuntimeUnavailable, Unlaunchable
from inference_service.runtimes.docker import namespace, networks, reach
from inference_service.runtimes.docker.endpoint import Endpoint
from inference_service.runtimes.docker.reach import BehindSsh, OnAnotherMachine, OnThisMachine
from tests.docker.daemon import Daemon
from tests.docker.needs import require_private_daemon
from tests.runtimes.beds import ask
from tests.runtimes.beds import connection as connection_with
from tests.runtimes.docker.beds import Connect, Open, copy_image
from tests.waiting import SLOWLY, until, within

pytestmark = pytest.mark.docker


async def test_an_engine_is_dialled_at_its_own_address(open_bed: Open) -> None:
    bed = open_bed()
    async with bed.running() as running:
        assert running.instance.url == f"http://{bed.address(running)}"
        assert await ask(running, "/env/ENGINE_PORT") == "80"
        with socket.create_connection(("127.0.0.1", running.instance.port)) as published:
            published.sendall(b"GET /env/ENGINE_PORT HTTP/1.0\r\n\r\n")
            assert published.recv(100).endswith(b"80")


async def test_streams_go_on_while_the_daemon_is_down(open_bed: Open, daemon: Daemon) -> None:
    bed = open_bed(url=daemon.url)
    async with bed.running() as running:
        host, port = running.instance.url.removeprefix("http://").split(":")
        for away in (daemon.stop, daemon.kill):
            reader, writer = await asyncio.open_connection(host, int(port))
            await asyncio.to_thread(away)
            writer.write(b"GET /env/ENGINE_PORT HTTP/1.0\r\n\r\n")
            assert (await reader.read()).endswith(b"80")
            writer.close()
            await writer.wait_closed()
            assert await ask(running, "/env/ENGINE_PORT") == "80"
            await asyncio.to_thread(daemon.start)
            assert await ask(running, "/env/ENGINE_PORT") == "80"


async def test_a_daemon_without_a_proxy_of_ports(
    docker_client: DockerClient, image: str, open_bed: Open
) -> None:
    require_private_daemon()
    with Daemon(flags=["--userland-proxy=false"]) as daemon:
        copy_image(docker_client, image, daemon)
        bed = open_bed(url=daemon.url)
        async with bed.running() as running:
            assert await ask(running, "/env/ENGINE_PORT") == "80"
        await bed.close()


async def run(*command: str) -> None:
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)


@asynccontextmanager
async def stranger_at(address: str) -> AsyncGenerator[list[bytes]]:
    """Listen at an address of this machine, as a container of another daemon may."""
    heard: list[bytes] = []
    open_: set[asyncio.StreamWriter] = set()

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_.add(writer)
        heard.append(await reader.read())
        writer.close()
        await writer.wait_closed()
        open_.discard(writer)

    await run("ip", "address", "add", f"{address}/32", "dev", "lo")
    try:
        async with await asyncio.start_server(hear, address, 80):
            yield heard
            await until(lambda: not open_, "a connection to the stranger stays open")
    finally:
        await run("ip", "address", "delete", f"{address}/32", "dev", "lo")


async def test_a_stranger_at_the_address_of_an_engine_gets_nothing(
    open_bed: Open, apart: Daemon
) -> None:
    """Its connections are opened, and closed without a word."""
    bed = open_bed(url=apart.url)
    launch = bed.launch()
    async with bed.runtime.run(launch) as running:
        address = bed.address(running).split(":")[0]
        async with stranger_at(address) as heard:
            with pytest.raises(LaunchError, match=r"on another 127\.0\.0\.1 than this service's"):
                await running.listens()
        assert running.instance.url.startswith("http://127.0.0.1:")
    assert set(heard) <= {b""}


async def test_a_container_that_is_hidden_is_reached_at_the_published_port(
    open_bed: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As where `/proc` shows no processes of others (`hidepid`)."""
    monkeypatch.setattr(namespace, "_PROC", tmp_path)
    bed = open_bed()
    async with bed.running() as running:
        assert running.instance.url == f"http://127.0.0.1:{running.instance.port}"
        assert await ask(running, "/env/ENGINE_PORT") == "80"


async def test_a_container_that_somebody_starts_anew_is_another_engine(open_bed: Open) -> None:
    bed = open_bed()
    async with bed.running() as running:
        container = bed.client.containers.get(running.instance.name)
        await asyncio.to_thread(container.restart, timeout=0)
        async with within(SLOWLY, "the end of the engine was not reported"):
            await running.wait()


async def test_engines_join_a_network(connect: Connect, daemon: Daemon) -> None:
    made = daemon.client.networks.create("lan")
    bed = await connect(daemon.url, daemon.url, "lan")
    async with bed.running() as running:
        assert [*bed.inspect(running)["NetworkSettings"]["Networks"]] == ["lan"]
        assert running.instance.url == f"http://{bed.address(running)}"
        assert await ask(running, "/env/ENGINE_PORT") == "80"
    await bed.close()
    made.remove()


async def test_a_network_by_its_id_is_that_of_its_name(daemon: Daemon) -> None:
    made = daemon.client.networks.create("lan")
    bridge = str(daemon.client.networks.get(networks.BRIDGE).id)

    assert networks.chosen(daemon.client, None, str(made.id)) == "lan"
    assert networks.chosen(daemon.client, None, str(made.id)[:12]) == "lan"
    assert networks.chosen(daemon.client, None, bridge) == networks.BRIDGE
    with pytest.raises(NetworkUnusable, match="there is no network"):
        networks.chosen(daemon.client, None, str(made.id)[:2])
    made.remove()


async def test_an_engine_in_another_network_is_not_adopted(
    connect: Connect, daemon: Daemon
) -> None:
    made = daemon.client.networks.create("lan")
    before = await connect(daemon.url, daemon.url)
    left = before.runtime.run(before.launch())
    old = before.inspect(await left.__aenter__())["Id"]
    after = await connect(daemon.url, daemon.url, "lan")
    async with after.running() as running:
        assert after.inspect(running)["Id"] != old
    await left.__aexit__(None, None, None)
    await after.close()
    made.remove()


async def test_a_daemon_of_another_machine_by_tls(
    connect: Connect, apart: Daemon, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(apart.folder))
    bed = await connect(apart.tls_url, apart.url)
    async with bed.running() as running:
        assert running.instance.url == f"http://{apart.address}:{running.instance.port}"
        assert not bed.connection.here
        assert await ask(running, "/env/ENGINE_PORT") == "80"
    assert "prompts and answers go to its engines in clear text" in caplog.text


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
async def test_a_daemon_that_asks_for_a_certificate(
    connect: Connect, apart: Daemon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeUnavailable, match=f"at {apart.tls_url}"):
        await connect(apart.tls_url, apart.url)
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))  # TLS without a certificate
    with pytest.raises(RuntimeUnavailable, match=r"certificate|CERTIFICATE"):
        await connect(apart.tls_url, apart.url)


async def test_a_context_with_its_certificates(
    connect: Connect, apart: Daemon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files = ",".join(f"{name}={apart.folder}/{name}.pem" for name in ("ca", "cert", "key"))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    await run("docker", "context", "create", "far", "--docker", f"host={apart.tls_url},{files}")
    monkeypatch.setenv("DOCKER_CONTEXT", "far")
    bed = await connect("", apart.url)

    assert str(bed.connection.endpoint) == f"{apart.tls_url} (context far)"
    async with bed.running() as running:
        assert await ask(running, "/env/ENGINE_PORT") == "80"


async def test_a_daemon_that_lacks_the_address_by_which_it_is_named(
    open_bed: Open, daemon: Daemon
) -> None:
    """As one behind a router, whose address is not its own."""
    found = replace(connection_with(daemon.url), reach=OnAnotherMachine("192.0.2.1"))
    bed = open_bed(url=daemon.url, connected=found)
    with pytest.raises(Unlaunchable, match="does not have the address by which DOCKER_HOST"):
        async with bed.runtime.run(bed.launch()):
            pass


def test_a_network_that_does_not_exist(docker_client: DockerClient) -> None:
    with pytest.raises(NetworkUnusable, match=r"no network nope .*bridge.*docker network create"):
        networks.chosen(docker_client, None, "nope")
    with pytest.raises(NetworkUnusable, match="gives engines no address"):
        networks.chosen(docker_client, None, "host")


def test_the_machine_of_a_daemon() -> None:
    def found(address: str) -> reach.Reach:
        return reach.find(Endpoint(address), None, networks.BRIDGE)

    assert isinstance(found("unix:///x"), OnThisMachine)
    assert isinstance(found("tcp://localhost:1"), OnThisMachine)
    assert found("tcp://192.0.2.1:1") == OnAnotherMachine("192.0.2.1")
    assert isinstance(found("ssh://localhost"), BehindSsh)
    with pytest.raises(RuntimeUnavailable, match=r"at tcp://far\.invalid:1"):
        found("tcp://far.invalid:1")
