"""The look at a Docker daemon before the SDK is imported."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from inference_service.errors import RuntimeUnavailable
from inference_service.runtimes.docker import endpoint


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The path of the daemon's socket in the environment."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/daemon")
    return f"{tmp_path}/daemon"


@pytest.fixture
def bound(path: str) -> Iterator[socket.socket]:
    """A socket at that path, at which nothing listens yet."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        yield listener


def test_there_is_no_socket(path: str) -> None:
    with pytest.raises(RuntimeUnavailable, match=rf"at unix://{path} \(No such file or directory"):
        endpoint.look()


def test_nothing_listens_any_more(bound: socket.socket) -> None:
    with pytest.raises(RuntimeUnavailable, match="Connection refused"):
        endpoint.look()


def test_a_daemon_listens(bound: socket.socket) -> None:
    bound.listen()

    endpoint.look()


def test_a_daemon_with_a_full_queue_listens_too(bound: socket.socket, path: str) -> None:
    bound.listen(0)
    with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
        first.connect(path)
        second.setblocking(False)
        with pytest.raises(BlockingIOError):
            second.connect(path)

        endpoint.look()


def test_a_socket_that_this_user_may_not_use(bound: socket.socket, path: str) -> None:
    bound.listen()
    os.chmod(path, 0)
    user = os.geteuid()
    os.seteuid(user or 65534)  # root may use any
    try:
        with pytest.raises(RuntimeUnavailable, match=r"denied: .* group of the socket"):
            endpoint.look()
    finally:
        os.seteuid(user)


def test_an_address_of_another_kind_is_left_to_the_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")

    endpoint.look()


@pytest.mark.parametrize(
    "address",
    ["tcp://host:99999", "tcp://host:port", "tcp://[::1", "http://host:port", "host:2375x"],
)
def test_an_address_that_cannot_be_one_is_named(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", address)

    with pytest.raises(RuntimeUnavailable) as raised:
        endpoint.look()

    assert address in raised.value.message


@pytest.mark.parametrize("given", ["/run/a.sock", "unix:/run/a.sock"])
def test_the_path_of_a_socket_alone_is_told_how_to_be_written(
    given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", given)

    with pytest.raises(RuntimeUnavailable, match=r"is written unix:///run/a\.sock"):
        endpoint.look()


def test_a_user_without_a_home_has_no_files_of_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HOME", "DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)  # as for a user of no list

    assert endpoint.find().address == "unix:///var/run/docker.sock"
