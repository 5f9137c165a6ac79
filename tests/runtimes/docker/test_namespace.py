"""The proof that a connection has come to a process, by this machine's own kernel."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from inference_service.runtimes.docker import namespace
from inference_service.runtimes.docker.namespace import Address, Found, Namespace

OWN = Namespace(os.getpid())


class Stranger:
    """A container in a network in which nothing of this one is seen."""

    def __init__(self, listens: bool) -> None:
        self._listens = listens

    def listens(self, port: int) -> bool:
        return self._listens

    def has(self, here: Address, there: Address) -> bool:
        return False


@pytest.fixture(params=["127.0.0.1", "::1", "dual"])
def address(request: pytest.FixtureRequest) -> Iterator[Address]:
    """An address at which this process listens; `dual` is an IPv6 socket that takes IPv4 too."""
    dual = request.param == "dual"
    host = "::" if dual else request.param
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family, dualstack_ipv6=dual) as server:
        yield ("127.0.0.1" if dual else host), server.getsockname()[1]


def test_a_connection_that_came_to_the_process(address: Address) -> None:
    assert namespace.dial(address, OWN) is Found.OURS


def test_a_connection_that_came_to_another(address: Address) -> None:
    assert namespace.dial(address, Stranger(listens=False)) is Found.NOT_OURS


def free() -> Address:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        host, port = server.getsockname()
    return host, port


def test_nobody_listens_yet() -> None:
    assert namespace.dial(free(), OWN) is Found.NOBODY_YET


def test_an_address_that_refuses_while_the_container_listens() -> None:
    assert namespace.dial(free(), Stranger(listens=True)) is Found.NOT_OURS


def test_an_address_without_a_way_to_it() -> None:
    assert namespace.dial(("255.255.255.255", 80), OWN) is Found.NOT_OURS


def test_a_listener_that_only_its_own_machine_reaches() -> None:
    with socket.create_server(("127.0.0.1", 0)) as near, socket.create_server(("", 0)) as wide:
        assert not OWN.listens(near.getsockname()[1])
        assert OWN.listens(wide.getsockname()[1])


def test_a_process_is_known_by_its_control_group() -> None:
    with open(f"/proc/{os.getpid()}/cgroup") as file:
        group = file.readline().strip().rpartition(":")[2]

    assert Namespace.of(os.getpid(), group) == OWN
    assert Namespace.of(os.getpid(), "0" * 64) is None
    assert Namespace.of(0, group) is None
    assert Namespace.of(2**22 + 1, group) is None  # beyond the highest that Linux gives


def test_own_addresses() -> None:
    assert namespace.is_own("127.0.0.1")
    assert namespace.is_own("::1")
    assert not namespace.is_own("192.0.2.1")
    assert not namespace.is_own("")
    assert not namespace.is_own("far.example")
