"""The port that an engine gets."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from inference_service.errors import LaunchError
from inference_service.runtimes.ports import Ports


@contextmanager
def listening(port: int = 0, host: str = "127.0.0.1") -> Iterator[int]:
    """Listen as another program would."""
    with socket.create_server((host, port)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def first() -> int:
    """The first of three ports that are free now."""
    for _ in range(100):
        with ExitStack() as stack:
            port = stack.enter_context(listening())
            try:
                for following in (port + 1, port + 2):
                    stack.enter_context(listening(following))
            except (OSError, OverflowError):
                continue
            return port
    pytest.fail("this machine has no three free ports in a row")


def test_the_first_free_port_is_claimed_and_given_back(first: int) -> None:
    ports = Ports(first, first + 2)

    with ports.claim() as one, ports.claim() as two, ports.claim() as three:
        assert (one, two, three) == (first, first + 1, first + 2)
    with ports.claim() as again:
        assert again == first


def test_a_port_given_back_early_is_the_next_one_claimed(first: int) -> None:
    ports = Ports(first, first + 2)

    with ports.claim():
        with ports.claim():
            pass
        with ports.claim() as next_one:
            assert next_one == first + 1


def test_a_search_that_begins_later_goes_on_at_the_start(first: int) -> None:
    ports = Ports(first, first + 2, offset=3 * 10**9 + 1)

    with ports.claim() as one, ports.claim() as two, ports.claim() as three:
        assert (one, two, three) == (first + 1, first + 2, first)
        with pytest.raises(LaunchError, match=f"from {first} to {first + 2}"), ports.claim():
            pass


def test_a_claim_is_given_back_when_its_block_fails(first: int) -> None:
    ports = Ports(first, first)

    with pytest.raises(KeyError), ports.claim():
        raise KeyError
    with ports.claim() as again:
        assert again == first


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_port_of_another_program_is_passed_over(first: int, host: str) -> None:
    with listening(first, host), Ports(first, first + 2).claim() as port:
        assert port == first + 1


def test_a_port_can_be_avoided(first: int) -> None:
    with Ports(first, first + 2).claim(frozenset({first, first + 1})) as port:
        assert port == first + 2


def test_a_port_with_connections_in_time_wait_is_free(first: int) -> None:
    address = ("127.0.0.1", first)
    with socket.create_server(address) as server, socket.create_connection(address):
        server.accept()[0].close()  # the end that closes first goes to TIME_WAIT
    with socket.socket() as plain, pytest.raises(OSError, match="in use"):
        plain.bind(address)

    with Ports(first, first).claim() as port:
        assert port == first


@pytest.mark.parametrize("why", ["claimed", "taken", "avoided"])
def test_the_message_for_no_free_port_has_advice(first: int, why: str) -> None:
    ports = Ports(first, first)
    with ExitStack() as stack:
        if why == "claimed":
            stack.enter_context(ports.claim())
        elif why == "taken":
            stack.enter_context(listening(first))
        avoid = frozenset({first} if why == "avoided" else ())

        with pytest.raises(LaunchError) as refused, ports.claim(avoid):
            pass

    assert str(refused.value) == (
        f"no port of 127.0.0.1 is free from {first} to {first}; "
        "stop a model, or widen the setting `ports`"
    )
