"""The name under which a caller waits its turn, with and without proxies that may give it."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
import pytest

from inference_service.api import callers, requests
from inference_service.serving.queue import Caller
from inference_service.v1 import model_service_pb2 as pb
from inference_service.v1 import model_service_pb2_grpc as pb_grpc
from tests.service import Serving, free_ports, serving

PROXY, OTHER = "127.0.0.7", "127.0.0.8"  # two addresses of the loopback, to call from


@dataclass
class Callers:
    """A service, and the names of the callers that it saw."""

    service: Serving
    names: list[str]

    async def rest(self, peer: str, *headers: tuple[str, str]) -> str:
        """Generate over REST from an address of the loopback; return the caller's name."""
        transport = httpx.AsyncHTTPTransport(local_address=peer, trust_env=False)
        async with httpx.AsyncClient(transport=transport, timeout=60) as client:
            answer = await client.post(
                f"{self.service.service.rest_url}/generate",
                json={"model_id": "story-mini", "prompt": "Once", "max_new_tokens": 1},
                headers=[*headers],
            )
        assert answer.status_code == 200, answer.text
        return self.names.pop()

    async def grpc(self, *metadata: tuple[str, str], target: str | None = None) -> str:
        """Generate over gRPC; return the caller's name."""
        request = pb.GenerateRequest(model_id="story-mini", prompt="Once", max_new_tokens=1)
        async with grpc.aio.insecure_channel(target or self.service.service.target) as channel:
            stub: pb_grpc.ModelServiceAsyncStub = pb_grpc.ModelServiceStub(channel)
            await stub.Generate(request, metadata=metadata)
        return self.names.pop()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Record the names of callers."""
    seen: list[str] = []
    name = callers.caller

    def recorded(*given: Any) -> Caller:
        caller = name(*given)
        seen.append(caller[-1])
        return caller

    monkeypatch.setattr(requests, "caller", recorded)
    yield seen


@pytest.fixture
async def alone(names: list[str]) -> AsyncIterator[Callers]:
    """Run a service without a proxy, as it is by default."""
    async with serving(ports=free_ports(4)) as service:
        yield Callers(service, names)


@pytest.fixture
async def proxied(names: list[str]) -> AsyncIterator[Callers]:
    """Run a service with two proxies."""
    async with serving(ports=free_ports(4), trusted_proxy=[PROXY, "10.0.0.0/8"]) as service:
        yield Callers(service, names)


async def test_nobody_names_itself_on_rest(alone: Callers) -> None:
    """uvicorn believes X-Forwarded-For from 127.0.0.1, unless told otherwise."""
    for header in ("X-Caller", "X-Forwarded-For", "X-Real-IP"):
        assert await alone.rest("127.0.0.1", (header, "9.9.9.9")) == "127.0.0.1"
    assert await alone.rest(OTHER, ("Forwarded", "for=9.9.9.9")) == OTHER
    key = await alone.rest(OTHER, ("X-Caller", "me"), ("Authorization", "Bearer a"))
    assert key.startswith("key ")


async def test_the_name_of_a_trusted_proxy_wins(proxied: Callers) -> None:
    key = ("Authorization", "Bearer a")
    assert await proxied.rest(PROXY, ("X-Caller", "team-a"), key) == "team-a"
    assert (await proxied.rest(OTHER, ("X-Caller", "team-a"), key)).startswith("key ")
    assert (await proxied.rest(PROXY, ("X-Forwarded-For", "9.9.9.9"), key)).startswith("key ")


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        pytest.param(["9.9.9.9"], "9.9.9.9", id="a client"),
        pytest.param(["6.6.6.6, 9.9.9.9"], "9.9.9.9", id="a client that adds an address before"),
        pytest.param(["6.6.6.6", "9.9.9.9"], "9.9.9.9", id="the same in two lines"),
        pytest.param(["9.9.9.9, 10.1.2.3,10.0.0.1"], "9.9.9.9", id="proxies behind one another"),
        pytest.param(["10.1.2.3"], "10.1.2.3", id="a client on a machine with a proxy"),
        pytest.param(["9.9.9.9:51234"], "9.9.9.9", id="a port, which some gateways add"),
        pytest.param(["[2001:db8::7]:51234"], "2001:db8::7", id="IPv6 with a port"),
        pytest.param(["2001:DB8:0::7"], "2001:db8::7", id="IPv6 in another writing"),
        pytest.param(["::ffff:9.9.9.9"], "9.9.9.9", id="IPv4 as IPv6"),
        pytest.param(["unknown"], PROXY, id="a client that the proxy does not know"),
        pytest.param(["9.9.9.9, unknown"], PROXY, id="no address at the end"),
        pytest.param(["9.9.9.9, , 10.0.0.1"], "10.0.0.1", id="an empty entry"),
        pytest.param([""], PROXY, id="an empty header"),
        pytest.param(["6.6.6.6," * 2000 + "9.9.9.9"], "9.9.9.9", id="a very long list"),
    ],
)
async def test_the_client_of_a_trusted_proxy(
    proxied: Callers, forwarded: list[str], client: str
) -> None:
    headers = [("X-Forwarded-For", value) for value in forwarded]

    assert await proxied.rest(PROXY, *headers) == client
    assert await proxied.rest(OTHER, *headers) == OTHER


async def test_the_other_header_of_forwarding_is_not_read(proxied: Callers) -> None:
    """A proxy that sets X-Forwarded-For passes on what its client wrote into this one."""
    assert await proxied.rest(PROXY, ("Forwarded", "for=6.6.6.6")) == PROXY


async def test_a_bridge_of_this_machine_names_its_callers_on_grpc(alone: Callers) -> None:
    assert await alone.grpc(("x-caller", "9.9.9.9")) == "9.9.9.9"
    assert await alone.grpc(("x-forwarded-for", "9.9.9.9")) == "ipv4:127.0.0.1"
    assert await alone.grpc(("authorization", "Bearer a")) == "Bearer a"


def address() -> str:
    """Return an address of this machine that is no loopback, or skip the test."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this machine has no network")
        own: str = probe.getsockname()[0]
    if own.startswith("127."):
        pytest.skip("this machine has no network")
    return own


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
async def test_nobody_of_the_network_names_itself_on_grpc(names: list[str], host: str) -> None:
    own = address()
    async with serving(host=host, ports=free_ports(4)) as service:
        callers = Callers(service, names)
        target = f"{own}:{service.service.target.rpartition(':')[2]}"

        for header in ("x-caller", "x-forwarded-for"):
            assert await callers.grpc((header, "me"), target=target) == f"ipv4:{own}"
        key = ("authorization", "Bearer a")
        assert await callers.grpc(("x-caller", "me"), key, target=target) == "Bearer a"


async def test_a_trusted_proxy_names_its_callers_on_grpc(names: list[str]) -> None:
    own = address()
    async with serving(host="0.0.0.0", ports=free_ports(4), trusted_proxy=[own]) as service:
        callers = Callers(service, names)
        target = f"{own}:{service.service.target.rpartition(':')[2]}"

        assert await callers.grpc(("x-caller", "team-a"), target=target) == "team-a"
        forwarded = ("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", f"9.9.9.9, {own}")
        assert await callers.grpc(*forwarded, target=target) == "9.9.9.9"
        assert await callers.grpc(("x-forwarded-for", "me"), target=target) == f"ipv4:{own}"
