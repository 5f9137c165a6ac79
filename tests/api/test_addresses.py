"""Addresses of the settings that cannot be listened on."""

from __future__ import annotations

import socket

import pytest

from inference_service.api.addresses import BindError, bound


@pytest.mark.parametrize(
    ("host", "cause"),
    [
        ("no such host", "no address is known by that name"),
        ("127.0.0.1.5", "no address is known by that name"),
        ("x" * 70, "no address is known by that name"),
        ("203.0.113.7", "this machine does not have that address"),
        ("2001:db8::7", "this machine does not have that address"),
    ],
)
@pytest.mark.parametrize("name", ["gRPC", "REST"])
def test_a_host_that_is_not_of_this_machine_is_the_fault_of_its_flag(
    name: str, host: str, cause: str
) -> None:
    with pytest.raises(BindError, match=rf"\({cause}\); choose another --host$"):
        bound(name, host, 0)


def test_a_port_that_is_taken_is_the_fault_of_its_flag() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BindError, match=r"choose another --grpc-port$"):
            bound("gRPC", "127.0.0.1", port)
