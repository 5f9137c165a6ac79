"""Connections over TLS, to servers with certificates of a CA of the tests."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from shutil import which

import pytest

from inference_service.engines.http import Connections
from tests.engines.sockets import (
    GET,
    OK,
    Reader,
    Server,
    Writer,
    ask,
    body,
    has_ipv6,
    once,
    sends,
    serving,
)
from tests.sinks import Kept

pytestmark = pytest.mark.skipif(which("openssl") is None, reason="makes certificates with openssl")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make `good` for this machine, `other` for another host, both of the CA `ca`."""
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2")
    openssl(*new, "-subj", "/CN=tests", "-keyout", "ca.key", "-out", "ca.pem")
    for name, host in (("good", "IP:127.0.0.1,IP:::1"), ("other", "DNS:other.example")):
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-addext", f"subjectAltName={host}")
        openssl(
            *new, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem", *signed
        )
    return folder


@pytest.fixture
async def connections(
    certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Connections]:
    """Connections of a system that trusts the CA."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ca.pem"))
    connections = Connections(keep_alive=True)
    yield connections
    await connections.aclose()


def server_side(certificates: Path, name: str = "good") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / f"{name}.pem", certificates / f"{name}.key")
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


async def test_a_connection_is_used_again(connections: Connections, certificates: Path) -> None:
    async def twice(served: Server, reader: Reader, writer: Writer) -> None:
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
        for _ in range(2):
            await served.asked(reader)
            writer.write(OK)

    async with serving(twice, tls=server_side(certificates)) as served:
        for _ in range(2):
            assert await body(await ask(connections, served)) == b"ok"


async def test_a_request_on_a_kept_connection_that_is_closed_unread_is_sent_again(
    connections: Connections, certificates: Path
) -> None:
    async with serving(once, once, tls=server_side(certificates)) as served:
        for _ in range(2):
            assert await body(await ask(connections, served)) == b"ok"


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
async def test_a_certificate_may_be_for_an_address_of_ipv6(
    connections: Connections, certificates: Path
) -> None:
    async with serving(once, host="::1", tls=server_side(certificates)) as served:
        assert await body(await ask(connections, served)) == b"ok"


async def test_a_sink_holds_the_engine_back(connections: Connections, certificates: Path) -> None:
    total, piece = 200, b"x" * 65536
    sent = 0

    async def eager(served: Server, reader: Reader, writer: Writer) -> None:
        nonlocal sent
        await served.asked(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (total * len(piece)))
        for _ in range(total):
            writer.write(piece)
            await writer.drain()
            sent += 1

    sink = Kept(on_head=lambda sink: sink.source.pause())
    async with serving(eager, tls=server_side(certificates)) as served:
        exchange = await connections.ask(served.instance, GET, sink)
        before = -1
        while sent > before:  # until the kernel's buffers are full
            before = sent
            await asyncio.sleep(0.5)
        assert sent < total
        assert len(sink.body) <= 512 * 1024  # what asyncio decrypts of one read, and of the next
        sink.source.resume()
        await exchange.ended()

    assert len(sink.body) == total * len(piece)


async def test_closing_an_answer_closes_the_connection(
    connections: Connections, certificates: Path
) -> None:
    begun = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc"
    async with serving(sends(begun), tls=server_side(certificates)) as served:
        answer = await ask(connections, served)
        assert await anext(answer) == b"abc"
        answer.close()


async def test_a_certificate_for_another_host_is_an_error(
    connections: Connections, certificates: Path
) -> None:
    async with serving(tls=server_side(certificates, "other")) as served:
        with pytest.raises(
            OSError,
            match=r"^the certificate of 127\.0\.0\.1:\d+ is not trusted: IP address mismatch",
        ):
            await ask(connections, served)


async def test_a_certificate_of_an_unknown_ca_is_an_error(certificates: Path) -> None:
    connections = Connections(keep_alive=True)
    async with serving(tls=server_side(certificates)) as served:
        with pytest.raises(
            OSError, match=r"^the certificate of 127\.0\.0\.1:\d+ is not trusted: unable to get"
        ):
            await ask(connections, served)


async def test_a_server_without_tls_is_an_error(connections: Connections) -> None:
    async def plain(served: Server, reader: Reader, writer: Writer) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with serving(plain) as served:
        url = served.instance.url.replace("http:", "https:")
        with pytest.raises(OSError, match=r"127\.0\.0\.1:\d+ speaks no TLS: WRONG_VERSION_NUMBER"):
            await connections.ask(replace(served.instance, url=url), GET, Kept())


async def test_a_server_with_tls_is_no_http(connections: Connections, certificates: Path) -> None:
    async with serving(tls=server_side(certificates)) as served:
        url = served.instance.url.replace("https:", "http:")
        with pytest.raises(ConnectionError):
            await connections.ask(replace(served.instance, url=url), GET, Kept())
