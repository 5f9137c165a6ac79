"""Trials of faults, and the table at the end."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import docker
import grpc
import pytest
from docker import DockerClient

from tests.chaos.leftovers import left_behind
from tests.chaos.report import Report, Row
from tests.chaos.trial import Trial, new_client
from tests.service import free_ports

_REPORT = pytest.StashKey[Report]()
_MODEL = f"chaos-{os.getpid()}"

# As TGI does on a GPU, which the double believes that it has.
_MANY_AT_ONCE: dict[str, object] = {"NVIDIA_VISIBLE_DEVICES": "0", "MAX_BATCH_SIZE": 10000}

Faulty = Callable[..., AbstractAsyncContextManager[Trial]]


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_REPORT] = Report()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the table, and write it to the file that CHAOS_REPORT names."""
    report = config.stash[_REPORT]
    if not report.rows:
        return
    terminalreporter.section("faults")
    terminalreporter.write_line(str(report))
    if path := os.environ.get("CHAOS_REPORT"):
        Path(path).write_text(f"{report}\n")


@pytest.fixture
def faulty(docker_client: DockerClient, pytestconfig: pytest.Config) -> Faulty:
    """Make trials on the daemon of DOCKER_HOST, or the one to which `connect` connects.

    Each makes a row, and fails unless it is clean.
    """

    @asynccontextmanager
    async def trial(
        fault: str,
        allowed: Collection[str] = (),
        model_id: str = _MODEL,
        connect: Callable[[], DockerClient] = docker.from_env,
    ) -> AsyncGenerator[Trial]:
        row = Row(fault)
        pytestconfig.stash[_REPORT].rows.append(row)
        # gRPC ends its thread and closes its files with its last object. This channel keeps both
        # open, so that they are no difference between the start and the end of the trial.
        async with grpc.aio.insecure_channel("127.0.0.1:1"):
            client = connect()
            trial = Trial(
                row, connect, client, _MODEL, model_id, free_ports(8), allowed, new_client()
            )
            before = trial.held()
            try:
                yield trial
            finally:
                await trial.http.aclose()
                trial.forget_volume()
                client.close()
            row.left += await left_behind(before, trial.held, running=False)
        trial.verdict()

    return trial


@pytest.fixture
def tgi(tmp_path: Path, tgi_image: str) -> Callable[..., dict[str, object]]:
    """Make settings of a service with one model on TGI's double; `env` is that of the double."""

    def settings(*, pinned: bool = False, **env: object) -> dict[str, object]:
        path = tmp_path / "catalog.toml"
        env = _MANY_AT_ONCE | {"DOUBLE_LOAD_SECONDS": 0.1, "DOUBLE_DOWNLOAD_SECONDS": 0} | env
        variables = ", ".join(f'{name} = "{value}"' for name, value in env.items())
        path.write_text(
            f'[[models]]\nid = "{_MODEL}"\nhf_name = "org/{_MODEL}"\ncontext_length = 1024\n'
            f"pinned = {str(pinned).lower()}\n"
            f'[models.tgi]\nmemory = "256MiB"\nweights = {{ repo = "org/{_MODEL}" }}\n'
            f"env = {{ {variables} }}\n"
        )
        return {"runtime": "docker", "tgi_image": tgi_image, "catalog": path}

    return settings
