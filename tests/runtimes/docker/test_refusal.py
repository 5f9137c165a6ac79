"""The meaning of what Docker and podman refuse, in their own words."""

from __future__ import annotations

from typing import Any

import pytest
from docker.errors import APIError, ImageNotFound

from inference_service.errors import LaunchError, Unlaunchable
from inference_service.runtimes.command import Command
from inference_service.runtimes.docker import refusal

COMMAND: Any = type("Image", (), {"image": "org/image:1"})()
OF_DOCKER = 'Conflict. The container name "/tgi-a" is already in use by container "f1".'
OF_PODMAN = (
    'creating container storage: the container name "tgi-a" is already in use by f1. You have to '
    "remove that container to be able to reuse that name: that name is already in use"
)
CATATONIT = "container-init binary not found on the host: stat /usr/libexec/podman/catatonit: no"


def error(cause: str, kind: type[APIError] = APIError) -> LaunchError:
    command: Command = COMMAND
    return refusal.error(kind("", explanation=cause), command, "tgi-a")


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (OF_DOCKER, "docker rm -f tgi-a"),
        (OF_PODMAN, "docker rm -f tgi-a"),
        (CATATONIT, "install catatonit"),
        ("bind: cannot assign requested address", "DOCKER_HOST"),
        ('exec: "serve": executable file not found in $PATH', "serve"),
    ],
)
def test_what_no_retry_mends_says_what_to_do(cause: str, words: str) -> None:
    made = error(cause)
    assert isinstance(made, Unlaunchable)
    assert words in str(made)


def test_an_image_that_is_gone() -> None:
    assert "org/image:1" in str(error("No such image", ImageNotFound))


def test_anything_else_may_pass() -> None:
    assert not isinstance(error("no space left on device"), Unlaunchable)


@pytest.mark.parametrize(
    "cause",
    ["Bind for 127.0.0.1:80 failed: port is already allocated", "listen: address already in use"],
)
def test_a_port_of_another_program(cause: str) -> None:
    assert refusal.is_of_port(APIError("", explanation=cause))
    assert not refusal.is_of_port(APIError("", explanation=OF_DOCKER))
