"""The needs of tests on this machine: one sentence each, the same for all skips."""

import os
import shutil
from pathlib import Path

import pytest

from .daemon import answers


def require_daemon() -> None:
    """Skip the running test, with a reason in one line, where no Docker daemon answers.

    The daemon has to be one of this machine, because tests reach containers on 127.0.0.1. With
    `REQUIRE_DOCKER=1`, as in CI, the test fails instead, because skipped tests show nothing.
    """
    url = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if not answers(Path(url.removeprefix("unix://"))):
        _give_up(f"no Docker daemon of this machine answers at {url}")


def require_private_daemon() -> None:
    """Skip where `Daemon` cannot run: it needs root and the programs `dockerd` and `ip`."""
    _require_programs("dockerd", "ip")
    if os.geteuid() != 0:
        _give_up("only root can start a private Docker daemon")


def require_registry() -> None:
    """Skip where `Registry` cannot run: it needs a daemon and the program `docker-registry`."""
    require_daemon()
    _require_programs("docker-registry")


def require_ssh() -> None:
    """Skip where `Sshd` cannot run."""
    _require_programs("ssh", "sshd", "ssh-keygen", "docker")


def require_podman() -> None:
    """Skip where podman cannot run beside a registry."""
    require_registry()
    _require_programs("podman")
    if os.geteuid() != 0:
        _give_up("only root can run podman with storage of its own here")


def _require_programs(*names: str) -> None:
    for name in names:
        if shutil.which(name) is None:
            _give_up(f"the program {name} is not installed")


def _give_up(reason: str) -> None:
    if os.environ.get("REQUIRE_DOCKER") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
