"""The hosts at which REST answers: no page can make a name of its own lead here (DNS rebinding)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from rest_bridge import hosts
from tests.service import Serving, serving
from tests.waiting import until

NAME = socket.gethostname()


@pytest.fixture
async def service() -> AsyncIterator[Serving]:
    async with serving(allowed_host=["llm", "llm.example.org", "*.lan"]) as service:
        yield service


@pytest.mark.parametrize(
    "host",
    [
        pytest.param("127.0.0.1:8000", id="an address"),
        pytest.param("10.1.2.3", id="an address, by a proxy or the probe of Kubernetes"),
        pytest.param("[::1]:8000", id="an address of IPv6"),
        pytest.param("[2001:DB8::1]", id="an address of IPv6 without a port"),
        pytest.param("[::ffff:127.0.0.1]", id="an IPv4 address as IPv6"),
        pytest.param("localhost:8000", id="localhost"),
        pytest.param("LocalHost", id="localhost in capitals"),
        pytest.param("localhost.:8000", id="localhost with the dot of the root"),
        pytest.param("localhost:", id="localhost with an empty port, which RFC 9110 permits"),
        pytest.param("my-app.localhost:3000", id="a name below localhost"),
        pytest.param("host.docker.internal:8000", id="a container that asks its machine"),
        pytest.param("gateway.containers.internal", id="the same in other container tools"),
        pytest.param(f"{NAME}:8000", id="this machine's name"),
        pytest.param(f"{NAME.upper()}.", id="this machine's name in capitals, with the dot"),
        pytest.param(f"{NAME}.local", id="this machine's name by multicast DNS"),
        pytest.param("llm:8000", id="an allowed name of a container"),
        pytest.param("LLM.example.org.", id="an allowed name"),
        pytest.param("box.lan:1", id="a name below an allowed one"),
    ],
)
async def test_a_host_of_ones_own_is_served(service: Serving, host: str) -> None:
    answer = await service.http.get("/models", headers={"Host": host})

    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("host", "named"),
    [
        pytest.param("evil.test", "evil.test", id="a strange name"),
        pytest.param("evil.test:8000", "evil.test", id="a strange name with our port"),
        pytest.param("EVIL.test.", "evil.test", id="a strange name with the dot of the root"),
        pytest.param("localhost.evil.test", "localhost.evil.test", id="localhost at the front"),
        pytest.param("evillocalhost", "evillocalhost", id="localhost without its dot"),
        pytest.param("evilinternal", "evilinternal", id="internal without its dot"),
        pytest.param(".localhost", ".localhost", id="a dot and localhost"),
        pytest.param("127.0.0.1.nip.io", "127.0.0.1.nip.io", id="a name that has an address in it"),
        pytest.param("x.llm.example.org", "x.llm.example.org", id="below an allowed name"),
        pytest.param("lan", "lan", id="the allowed name itself, of which only those below are"),
        pytest.param("box.lan.evil.test", "box.lan.evil.test", id="an allowed name at the front"),
        pytest.param("gpu-box", "gpu-box", id="a container's name: search domains complete it"),
        pytest.param("1.2.3.4.5", "1.2.3.4.5", id="no address"),
        pytest.param("evil-" + "x" * 200, "evil-" + "x" * 74 + "…", id="a long name"),
    ],
)
async def test_another_host_is_refused_with_the_setting(
    service: Serving, host: str, named: str
) -> None:
    answer = await service.http.get("/models", headers={"Host": host})

    assert answer.status_code == 421
    assert answer.json() == {
        "detail": f"nothing is served at the host {named}; if it is a name of this service, start "
        f"the service with --allowed-host {named}"
    }


PATHS = [
    *("/", "/models", "/models/story-mini/start", "/models:watch", "/models/story-mini/logs"),
    *("/generate", "/generate_stream", "/catalog:reload", "/healthz", "/readyz"),
    *("/docs", "/redoc", "/openapi.json", "/docs-assets/favicon.png", "/docs-assets/none"),
    *("/none", "//", "/%00"),
]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS", "DELETE"])
async def test_no_path_of_another_host_is_served(service: Serving, method: str) -> None:
    for path in PATHS:
        answer = await service.http.request(method, path, headers={"Host": "evil.test"})

        assert (path, answer.status_code) == (path, 421)
        assert answer.headers["content-type"] == "application/json"


async def test_a_host_of_another_service_can_be_allowed_for_every_name() -> None:
    async with serving(allowed_host=["*"]) as service:
        answer = await service.http.get("/models", headers={"Host": "evil.test"})

    assert answer.status_code == 200


async def raw(service: Serving, head: str) -> str:
    """Send a head as it is; return the status line of the answer."""
    assert service.service.rest_url is not None
    host, _, port = service.service.rest_url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(head.encode() + b"Connection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer.decode().partition("\r\n")[0]


@pytest.mark.parametrize(
    "hosts",
    [
        pytest.param("", id="none"),
        pytest.param("Host: evil.test\r\nHost: localhost\r\n", id="two, the last of which is good"),
        pytest.param(
            "Host: localhost\r\nHost: evil.test\r\n", id="two, the first of which is good"
        ),
    ],
)
async def test_a_request_without_one_host_is_refused(service: Serving, hosts: str) -> None:
    assert await raw(service, f"GET /models HTTP/1.1\r\n{hosts}") == "HTTP/1.1 400 Bad Request"


@pytest.mark.parametrize("host", ["", "localhost:8000:1", "[::1", "[evil.test]", "::1", "a/b"])
async def test_a_host_that_is_none_is_refused(service: Serving, host: str) -> None:
    """By the server or by the check of hosts."""
    status = await raw(service, f"GET /models HTTP/1.1\r\nHost: {host}\r\n")

    assert status.split()[1] in ("400", "421")


async def test_the_probe_of_haproxy_has_no_host_and_passes(service: Serving) -> None:
    """By default it is of HTTP/1.0; each browser sends a host."""
    assert (await raw(service, "GET /healthz HTTP/1.0\r\n")).endswith(" 200 OK")


async def test_this_machines_full_name_is_served_once_the_resolver_has_answered(
    service: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The resolver of a foreign network may add its own domain, and give no other name."""
    monkeypatch.setattr(socket, "getfqdn", lambda: f"{NAME}.Corp.example")
    hosts._full_names.cache_clear()

    await until(lambda: f"{NAME}.corp.example" in hosts.own_names(), "the name was not looked up")
    answer = await service.http.get("/models", headers={"Host": f"{NAME}.corp.example:8000"})
    assert answer.status_code == 200

    monkeypatch.setattr(socket, "getfqdn", lambda: "evil.test")
    hosts._full_names.cache_clear()
    await until(hosts._full_names, "the name was not looked up")
    assert "evil.test" not in hosts.own_names()
    hosts._full_names.cache_clear()
