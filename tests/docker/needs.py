"""What a test needs of this machine: said once, so that a skip reads the same everywhere."""

import os
import shutil
from pathlib import Path

import pytest

from .daemon import answers


def require_daemon() -> None:
    """Skip the running test, in one line that says why, where no Docker Engine answers.

    It has to be one of this machine, because tests reach containers on 127.0.0.1. With
    `REQUIRE_DOCKER=1`, as in CI, the test fails instead: skipping all would show nothing.
    """
    url = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if not answers(Path(url.removeprefix("unix://"))):
        _give_up(f"no Docker Engine of this machine answers at {url}")


def require_private_daemon() -> None:
    """The same for `Daemon`, which needs root and the programs `dockerd` and `ip`."""
    _require_programs("dockerd", "ip")
    if os.geteuid() != 0:
        _give_up("only root can start a Docker Engine of its own")


def require_registry() -> None:
    """The same for `Registry`, which needs an engine and the program `docker-registry`."""
    require_daemon()
    _require_programs("docker-registry")


def _require_programs(*names: str) -> None:
    for name in names:
        if shutil.which(name) is None:
            _give_up(f"the program {name} is not installed")


def _give_up(reason: str) -> None:
    if os.environ.get("REQUIRE_DOCKER") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
