"""Measurements of a whole service under minutes of mixed work."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import docker
import grpc
import pytest
from docker.errors import NotFound

from inference_service import catalog
from inference_service.v1 import model_service_pb2_grpc as pb_grpc
from tests.command import Command, command
from tests.docker import images
from tests.docker.daemon import answers
from tests.service import free_ports
from tests.soak.flatness import Trend, trend
from tests.soak.load import Load
from tests.waiting import SLOWLY, within

SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))
WORKERS = 16
NAME = f"inference-service-soak-{os.getpid()}"
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Sample:
    """The memory, handles, threads and tasks of the service after so many requests."""

    requests: int
    rss: int  # bytes
    blocks: int  # of Python's memory
    handles: int
    threads: int
    tasks: int

    @property
    def held(self) -> tuple[int, ...]:
        """The things that are counted one by one."""
        return self.handles, self.threads, self.tasks


# The rise for each request up to which a measurement is flat. A leak of a kibibyte has to be found,
# which is at least one block; a quarter of that is well above the noise of ten minutes. Of handles,
# threads and tasks, one in a thousand requests.
ALLOWED = {"rss": 256, "blocks": 0.25, "handles": 1e-3, "threads": 1e-3, "tasks": 1e-3}

# The growth that is flat in any case, for a test too short for many changes of the model at work.
# A leak of a kibibyte for each request is four times as much after a minute.
LEAST = {"rss": 2**20, "blocks": 8000, "handles": 8, "threads": 4, "tasks": 20}

POOLED = 4  # threads and connections that a pool may have opened meanwhile


async def sample(service: Command, requests: int) -> Sample:
    """Measure the process of the service, from outside and from inside."""
    assert service.process.stdout is not None
    service.process.send_signal(signal.SIGUSR1)
    line = b""
    async with within(SLOWLY, "the service did not write its counts"):
        while not line.startswith(b"observed"):
            line = await service.process.stdout.readline()
            assert line, "the service has ended"
    tasks, blocks = map(int, line.split()[1:])
    proc = Path(f"/proc/{service.process.pid}")
    return Sample(
        requests,
        rss=int((proc / "statm").read_text().split()[1]) * PAGE,
        blocks=blocks,
        handles=len(list((proc / "fd").iterdir())),
        threads=len(list((proc / "task").iterdir())),
        tasks=tasks,
    )


def rise(samples: list[Sample], name: str) -> Trend:
    """Return the trend of one of the measurements over the requests."""
    return trend([s.requests for s in samples], [getattr(s, name) for s in samples])


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Make settings with two embedded models and, where Docker answers, TGI's double.

    Only one of the models fits at a time.
    """
    weights = Path(catalog.__file__).with_name("story_mini") / "story-mini.gguf"
    path = tmp_path / "catalog.toml"
    entry = '[[models]]\nid = "{0}"\nhf_name = "{0}"\ncontext_length = 512\n[models.{1}]\n'
    entry += 'memory = "256MiB"\nweights = {2}\n'
    ours = entry.format("second", "llamacpp", f'{{ path = "{weights}" }}\nslots = 8\nthreads = 1')
    settings: dict[str, Any] = {
        "runtime": "auto",
        "service_name": NAME,
        "volume": NAME,
        "ports": free_ports(8),
    }
    settings |= {"catalog": path, "memory": "300MiB", "min_residency": 0.1, "drain_timeout": 5}
    if not answers(Path("/var/run/docker.sock")):
        path.write_text(ours)
        yield settings | {"runtime": "process"}
        return
    client = docker.from_env()
    speed = f'{{ repo = "org/{NAME}" }}\nenv = {{ DOUBLE_LOAD_SECONDS = "0.1" }}'
    path.write_text(ours + entry.format("double", "tgi", speed))
    yield settings | {"tgi_image": images.tgi_double(client)}
    label = f"inference-service.service={NAME}"
    for container in client.containers.list(all=True, filters={"label": label}):
        container.remove(force=True)  # of a service that was killed when its test failed
    with suppress(NotFound):
        client.volumes.get(NAME).remove()
    client.close()


async def measured(service: Command, load: Load, seconds: float) -> list[Sample]:
    """Run the load for so many seconds, and measure the service a hundred times meanwhile."""
    samples = []
    work = asyncio.create_task(load.run(WORKERS))
    try:
        for _ in range(100):
            await asyncio.wait([work], timeout=seconds / 100)
            assert not work.done(), work.exception()
            samples.append(await sample(service, load.requests))
    finally:
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work
    return samples


async def at_rest(service: Command, load: Load) -> Sample:
    """Stop all models, and measure the service when its kept-alive connections are closed."""
    await load.stop_all()
    same = 0.0
    last = await sample(service, load.requests)
    async with within(SLOWLY, "handles, threads and tasks did not stay the same for 8 s"):
        while same < 8:
            await asyncio.sleep(0.5)
            now = await sample(service, load.requests)
            same = same + 0.5 if now.held == last.held else 0
            last = now
    return last


def table(samples: dict[str, Sample], trends: dict[str, Trend]) -> str:
    """Return the measurements as a table, each with its trend in the second half."""
    rows = [["", "requests", *ALLOWED]]
    for moment, taken in samples.items():
        rss = f"{taken.rss / 2**20:.1f} MiB"
        rows.append([moment, str(taken.requests), rss, *map(str, astuple(taken)[2:])])
    rises = (f"{trend.rise * 1000:+.2f}" for trend in trends.values())
    rows.append(["rise per 1,000", "", *rises])
    rows.append(["noise", "", *(f"{trend.noise:.1f}" for trend in trends.values())])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.rjust, row, widths)) for row in rows)


@pytest.mark.soak
@pytest.mark.timeout(2 * SECONDS + 300)
async def test_the_service_does_not_grow(
    settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    models = ["story-mini", "second", *(["double"] if "tgi_image" in settings else [])]
    async with (
        command(module="tests.soak.observed", **settings) as service,
        grpc.aio.insecure_channel(service.target) as channel,
    ):
        load = Load(pb_grpc.ModelServiceStub(channel), service.url, models)
        await load.warm_up()
        await measured(service, load, 20)
        before = await at_rest(service, load)
        samples = await measured(service, load, SECONDS)
        after = await at_rest(service, load)
        service.process.terminate()
        assert await service.process.wait() == 0
    trends = {name: rise(samples[len(samples) // 2 :], name) for name in ALLOWED}
    moments = {f"{part:.0%}": samples[int(part * 99)] for part in (0, 0.25, 0.5, 0.75, 1)}
    with capsys.disabled():
        print(f"\n{table({'at rest': before, **moments, 'at rest again': after}, trends)}")
        print(f"did {dict(load.done)}")
    assert not load.wrong
    grown = {n: t for n, t in trends.items() if not t.flat(ALLOWED[n], LEAST[n])}
    assert grown == {}
    assert after.tasks <= before.tasks
    assert after.handles <= before.handles + POOLED
    assert after.threads <= before.threads + POOLED
