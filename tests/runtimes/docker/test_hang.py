"""A daemon that hangs: it takes calls and answers none, while its containers run on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest

from inference_service.errors import RuntimeUnavailable, StopFailed
from inference_service.runtimes.docker import pulse
from inference_service.runtimes.docker.pulse import Patience
from inference_service.runtimes.ports import Ports
from tests.docker.daemon import Daemon
from tests.runtimes.beds import DockerBed
from tests.runtimes.docker.beds import Open, pull
from tests.runtimes.docker.test_daemon import removals
from tests.runtimes.tap import Tap
from tests.waiting import SLOWLY, until, within

pytestmark = pytest.mark.docker

_BRIEF = Patience(pause=0.3, answer=0.3, whole=5.0)
_SOON = 3.0  # seconds for a few of these, on a busy machine


@pytest.fixture
def hung(daemon: Daemon) -> Iterator[Daemon]:
    """A daemon that a test lets hang, and that goes on after the test."""
    yield daemon
    daemon.wake()


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the patience, which decides nothing else."""
    monkeypatch.setattr(pulse, "USUAL", _BRIEF)
    monkeypatch.setattr(pulse, "HURRIED", _BRIEF)


@asynccontextmanager
async def soon(what: str) -> AsyncGenerator[None]:
    async with within(_SOON, f"{what} was not given up"):
        yield


async def test_a_removal_is_given_up_and_the_next_service_adopts(
    open_bed: Open, hung: Daemon
) -> None:
    bed, heir = open_bed(url=hung.url), open_bed(url=hung.url)
    launch = bed.launch()
    with pytest.raises(StopFailed, match="has not answered for"):
        async with soon("the removal"), bed.runtime.run(launch) as running:
            await bed.serves(running)
            old = bed.inspect(running)["Id"]
            bed.runtime.hurry()
            hung.hang()
    assert bed.runtime.removal_pending(launch.key)
    async with soon("the pending removal"):
        await bed.runtime.aclose()

    hung.wake()
    async with heir.running() as after:
        assert heir.inspect(after)["Id"] == old


async def test_a_removal_that_was_given_up_leaves_the_container_to_the_next_run(
    open_bed: Open, hung: Daemon
) -> None:
    """It goes on when the daemon wakes, and finds what the next run uses by then."""
    bed = open_bed(url=hung.url)
    launch = bed.launch()
    with pytest.raises(StopFailed):
        async with bed.runtime.run(launch) as running:
            await bed.serves(running)
            old = bed.inspect(running)["Id"]
            hung.hang()

    hung.wake()
    async with bed.running() as after:
        assert bed.inspect(after)["Id"] == old
        ended = asyncio.create_task(after.wait())
        done, _ = await asyncio.wait([ended], timeout=1)
        assert not done
        ended.cancel()


class Hanging(Ports):
    """Ports at whose choice the daemon begins to hang."""

    def __init__(self, port: int, daemon: Daemon) -> None:
        super().__init__(port, port)
        self._daemon = daemon
        self.taken = asyncio.Event()

    @contextmanager
    def claim(self, avoid: frozenset[int] = frozenset()) -> Iterator[int]:
        with super().claim(avoid) as port:
            self._daemon.hang()
            self.taken.set()
            yield port


def nothing_left(bed: DockerBed) -> bool:
    return bed.left(bed.launch()) == []


async def test_a_container_that_a_daemon_makes_when_it_wakes_is_removed(
    open_bed: Open, hung: Daemon, free: int
) -> None:
    bed = open_bed(Hanging(free, hung), url=hung.url, removal_interval=0.5)
    with pytest.raises(RuntimeUnavailable, match="has not answered for"):
        async with soon("the start"), bed.runtime.run(bed.launch()):
            pass
    assert bed.runtime.removal_pending(bed.launch().key)

    hung.wake()
    await until(lambda: not bed.runtime.removal_pending(bed.launch().key), "it was not removed")
    await until(lambda: not removals(), "nobody looked once more")
    assert nothing_left(bed)


async def test_a_stop_of_a_start_that_hangs_is_given_up(
    open_bed: Open, hung: Daemon, free: int
) -> None:
    ports = Hanging(free, hung)
    bed = open_bed(ports, url=hung.url, removal_interval=0.5)

    async def start() -> None:
        async with bed.runtime.run(bed.launch()):
            pass

    starting = asyncio.create_task(start())
    await ports.taken.wait()
    starting.cancel()
    async with soon("the start that was cancelled"):
        with pytest.raises((asyncio.CancelledError, StopFailed)):
            await starting

    hung.wake()
    await until(lambda: not removals(), "the container was not removed")
    assert nothing_left(bed)


async def test_the_list_of_survivors_is_given_up(open_bed: Open, hung: Daemon) -> None:
    bed = open_bed(url=hung.url)
    hung.hang()
    with pytest.raises(RuntimeUnavailable, match="has not answered for"):
        async with soon("the list"):
            await bed.runtime.survivors({})


async def test_a_look_for_an_image_is_given_up(open_bed: Open, hung: Daemon) -> None:
    bed = open_bed(url=hung.url, pull_policy="missing")
    hung.hang()
    with pytest.raises(RuntimeUnavailable, match="has not answered for"):
        async with soon("the look"):
            await pull(bed, bed.image)


async def test_a_pull_is_given_up(
    open_bed: Open, hung: Daemon, pushed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference_service.runtimes.docker.calls._QUIET", 0.5)
    bed = open_bed(url=hung.url, pull_policy="missing")
    address, _, name = pushed.partition("/")
    async with Tap(address, 4_000_000) as tap:
        pulling = asyncio.create_task(pull(bed, f"{tap.address}/{name}"))
        async with within(SLOWLY, "the pull did not come through the tap"):
            await tap.held.wait()
        hung.hang()
        with pytest.raises(RuntimeUnavailable, match="has said nothing"):
            async with soon("the pull"):
                await pulling
        hung.wake()
        tap.drop()


async def test_a_daemon_that_lives_has_the_time_that_a_call_takes(open_bed: Open) -> None:
    """A container that ignores SIGTERM for longer than a ping may take."""
    bed = open_bed()
    launch = bed.launch(env={"ENGINE_STUBBORN": "1"}, stop_grace=3)
    async with bed.runtime.run(launch) as running:
        await bed.serves(running)
    assert nothing_left(bed)
