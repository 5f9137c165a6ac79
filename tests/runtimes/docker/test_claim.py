"""The claim on a name over real daemons: taken, refused, void, lost and let go.

`elsewhere` has a claim think that it is in another network namespace, so that it cannot see the
kernel's sockets of others. Holders are processes, which can be killed and halted.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path

import pytest
from docker import DockerClient
from docker.errors import NotFound

from inference_service.errors import LaunchError
from inference_service.runtimes import identity
from inference_service.runtimes.docker.claim import Claim
from inference_service.runtimes.docker.container import Recipe, find
from inference_service.runtimes.docker.owner import Owner
from inference_service.runtimes.docker.record import Record
from inference_service.runtimes.docker.runtime import DockerRuntime
from inference_service.runtimes.identity import NameTaken
from tests.docker.daemon import Daemon
from tests.docker.needs import require_podman
from tests.docker.podman import Podman
from tests.runtimes.docker.beds import Open
from tests.waiting import PROMPTLY, SLOWLY, until, within

pytestmark = pytest.mark.docker

NAME = f"claim-{os.getpid()}"
RECORD = f"{NAME}-CLAIM"
LONG = 1000.0  # seconds: no test waits for it

HOLDER = """
import asyncio, sys
from docker import DockerClient
from inference_service.runtimes.docker.claim import Claim
from inference_service.runtimes.identity import NameTaken

async def main(url, service):
    claim = Claim(DockerClient(base_url=url), service, "daemon", renewal=0.2)
    await claim.take()
    print("held", flush=True)
    shown = None
    while True:
        refusal = await claim.refusal()
        if refusal is not shown:
            print(refusal or "held again", flush=True)
        shown = refusal
        await asyncio.sleep(0.05)

asyncio.run(main(*sys.argv[1:]))
"""

NAMESPACES = count()


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put each claim of this process into a namespace of its own."""
    monkeypatch.setattr(identity, "namespace", lambda: f"{next(NAMESPACES)}")


@pytest.fixture(scope="module")
def podman() -> Iterator[str]:
    """Run podman's own service, and give its address."""
    require_podman()
    with Podman() as podman:
        yield podman.url


@contextmanager
def client_of(url: str) -> Iterator[DockerClient]:
    client = DockerClient(base_url=url)
    yield client
    client.close()


@asynccontextmanager
async def taken(
    url: str, daemon: str = "", renewal: float = 0.2, void: float = 1.0
) -> AsyncGenerator[Claim]:
    """Hold the claim; `daemon` is the id that it reports, by default another each time."""
    with client_of(url) as client:
        claim = Claim(client, NAME, daemon or f"daemon {next(NAMESPACES)}", renewal, void)
        try:
            async with within(SLOWLY, "the claim was neither taken nor refused"):
                await claim.take()
            yield claim
        finally:
            await claim.let_go()


async def refused(url: str, daemon: str = "", void: float = LONG) -> str:
    """Return why the claim is refused."""
    with pytest.raises(NameTaken) as error:
        async with taken(url, daemon, void=void):
            pass
    return str(error.value)


@contextmanager
def holder(url: str, *around: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that holds the claim; `around` are words before its command."""
    command = [*around, sys.executable, "-c", HOLDER, url, NAME]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert line(process) == "held"
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()


def records(url: str) -> list[str]:
    """Return the ids of the records of the claim."""
    with client_of(url) as client:
        return [found["Id"] for found in client.api.containers(all=True, filters={"name": RECORD})]


def images(url: str) -> list[str]:
    with client_of(url) as client:
        found = [tag for image in client.images.list() for tag in image.tags]
    return [tag for tag in found if "claim" in tag]


async def test_a_claim_is_a_record_until_it_is_let_go(daemon: Daemon) -> None:
    async with taken(daemon.url) as claim:
        assert len(records(daemon.url)) == 1
        assert await claim.refusal() is None
        assert find(daemon.client, Recipe(NAME, NAME).own_label) == []
    assert records(daemon.url) == images(daemon.url) == []


@pytest.mark.usefixtures("elsewhere")
async def test_one_of_many_that_claim_at_once_has_the_name(daemon: Daemon) -> None:
    async def attempt() -> bool:
        try:
            async with taken(daemon.url, void=LONG):
                await asyncio.wait_for(everybody.wait(), SLOWLY)
                return True
        except NameTaken:
            return False
        finally:
            done.append(True)

    done: list[bool] = []
    everybody = asyncio.Event()
    attempts = [asyncio.create_task(attempt()) for _ in range(8)]
    await until(lambda: len(done) == 7, "seven were not refused", SLOWLY)
    everybody.set()

    assert sorted(await asyncio.gather(*attempts)) == [False] * 7 + [True]


async def test_on_one_machine_the_second_is_refused_at_once_with_who_holds_the_name(
    daemon: Daemon,
) -> None:
    async with taken(daemon.url, "daemon"):
        for reported in ("daemon", "daemon that is called another at each question"):
            why = await refused(daemon.url, reported)
            assert why.startswith(f"a service named {NAME} uses this Docker daemon already, on ")
            assert why.endswith("; stop it, or give this one another --service-name")
            assert f"on {os.uname().nodename}, since 20" in why


@pytest.mark.usefixtures("elsewhere")
async def test_elsewhere_the_second_is_refused_once_the_record_is_renewed(daemon: Daemon) -> None:
    async with taken(daemon.url):
        assert "uses this Docker daemon already" in await refused(daemon.url)


async def test_a_killed_one_frees_the_name_at_once_on_its_machine(daemon: Daemon) -> None:
    with holder(daemon.url) as killed:
        assert NAME in await refused(daemon.url)
        killed.kill()
        killed.wait()
        async with (
            within(PROMPTLY, "the name was not free"),
            taken(daemon.url, "daemon", void=LONG),
        ):
            assert len(records(daemon.url)) == 1


async def test_a_killed_one_frees_the_name_elsewhere_when_its_record_is_void(
    daemon: Daemon,
) -> None:
    with holder(daemon.url, "unshare", "--net") as killed:
        assert NAME in await refused(daemon.url)
        killed.kill()
        killed.wait()
        begun = time.monotonic()
        async with taken(daemon.url, void=2.0):
            assert time.monotonic() - begun > 2.0
            assert len(records(daemon.url)) == 1


@pytest.mark.usefixtures("elsewhere")
async def test_only_one_takes_over_a_void_record(daemon: Daemon) -> None:
    Record(daemon.client, NAME).make(Owner("ended", namespace="on another machine"))
    results = await asyncio.gather(
        *(hold_for_a_while(daemon.url) for _ in range(4)), return_exceptions=True
    )

    assert [type(result) for result in results].count(NameTaken) == 3, results
    assert results.count(None) == 1


async def hold_for_a_while(url: str) -> None:
    """Hold the claim until the others, which look for as long, have been refused."""
    async with taken(url, void=2.0) as claim:
        begun = time.monotonic()
        while time.monotonic() - begun < 4.0:
            assert await claim.refusal() is None
            await asyncio.sleep(0.05)


async def test_a_record_that_is_pruned_is_made_again_at_once(daemon: Daemon) -> None:
    async with taken(daemon.url, renewal=LONG) as claim:
        before = records(daemon.url)
        daemon.client.containers.prune()
        for image in images(daemon.url):  # as `docker system prune --all`
            daemon.client.images.remove(image, force=True)
        await until(lambda: records(daemon.url), "the record was not made again")

        assert records(daemon.url) != before
        assert await claim.refusal() is None
        assert NAME in await refused(daemon.url)


async def test_a_record_that_is_renamed_is_made_again_and_leaves_nothing(daemon: Daemon) -> None:
    async with taken(daemon.url) as claim:
        [before] = records(daemon.url)
        daemon.client.api.rename(before, f"{NAME}-other")
        await until(lambda: records(daemon.url), "the record was not made again")

        assert [before] != records(daemon.url)
        assert await claim.refusal() is None
        with pytest.raises(NotFound):
            daemon.client.containers.get(before)


@pytest.mark.usefixtures("elsewhere")
async def test_a_service_that_was_halted_leaves_the_name_to_the_next_until_that_ends(
    daemon: Daemon,
) -> None:
    with holder(daemon.url, "unshare", "--net") as halted:
        halted.send_signal(signal.SIGSTOP)
        async with taken(daemon.url, void=2.0) as claim:
            halted.send_signal(signal.SIGCONT)

            async with within(SLOWLY, "the first service did not notice its loss"):
                assert "uses this Docker daemon already" in await asyncio.to_thread(line, halted)
            assert await claim.refusal() is None
        async with within(SLOWLY, "the first service did not claim the name again"):
            assert await asyncio.to_thread(line, halted) == "held again"
        assert len(records(daemon.url)) == 1


@pytest.mark.usefixtures("elsewhere")
async def test_who_has_lost_the_name_starts_and_removes_no_container(
    daemon: Daemon, open_bed: Open
) -> None:
    bed = open_bed(url=daemon.url, service=NAME)
    assert isinstance(bed.runtime, DockerRuntime)
    claim = bed.runtime.claim
    await claim.take()
    async with bed.runtime.run(bed.launch()) as running:
        kept = bed.inspect(running)["Id"]
        other, owner = Record(daemon.client, NAME), Owner("another", host="the other")
        while other.make(owner) is None:  # the service makes its own again, as after a prune
            other.remove(RECORD)
        async with within(SLOWLY, "the loss was not noticed"):
            while await claim.refusal() is None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

        with pytest.raises(LaunchError, match=f"a service named {NAME} .* on the other"):
            await bed.runtime.survivors({})
        with pytest.raises(LaunchError, match="on the other"):
            async with bed.runtime.run(bed.launch(model_id="second")):
                pass

    assert daemon.client.containers.get(kept).status == "running"
    daemon.client.containers.get(kept).remove(force=True)
    other.remove(RECORD)


async def test_a_container_of_somebody_else_keeps_its_name(
    daemon: Daemon, image: str, caplog: pytest.LogCaptureFixture
) -> None:
    foreign = daemon.client.containers.create(image, name=RECORD)
    async with taken(daemon.url, "daemon") as claim:
        assert await claim.refusal() is None
        assert f"no record of a claim is named {RECORD}" in caplog.text
        assert NAME in await refused(daemon.url, "daemon")
        foreign.reload()
        foreign.remove(force=True)
        await until(lambda: records(daemon.url), "no record was made")
    with pytest.raises(NotFound):
        foreign.reload()


async def test_the_claim_outlives_a_restart_of_the_daemon(
    daemon: Daemon, caplog: pytest.LogCaptureFixture
) -> None:
    async with taken(daemon.url) as claim:
        before = records(daemon.url)
        daemon.kill()
        daemon.start()
        assert records(daemon.url) == before
        assert NAME in await refused(daemon.url)
        assert await claim.refusal() is None
    assert records(daemon.url) == []
    assert not [record for record in caplog.records if record.levelno > logging.WARNING]


async def test_a_daemon_that_hangs_does_not_hold_up_the_end(daemon: Daemon) -> None:
    pid = int((daemon.folder / "pid").read_text())
    async with taken(daemon.url) as claim:
        os.kill(pid, signal.SIGSTOP)
        try:
            async with within(10, "the end was held up"):
                await claim.refusal()
                await claim.let_go()
        finally:
            os.kill(pid, signal.SIGCONT)
    await until(lambda: not records(daemon.url), "the record was left", SLOWLY)


async def test_on_podman_the_second_is_refused_and_the_next_one_is_not(podman: str) -> None:
    with holder(podman) as killed:
        assert "uses this Docker daemon already" in await refused(podman)
        with client_of(podman) as client:
            client.containers.prune()
        await until(lambda: records(podman), "the record was not made again")
        assert "uses this Docker daemon already" in await refused(podman)
        killed.kill()
        killed.wait()
        async with within(PROMPTLY, "the name was not free"), taken(podman, void=LONG):
            pass
    assert records(podman) == []


def test_on_podman_a_record_is_read_while_it_is_renewed(podman: str) -> None:
    with client_of(podman) as one, client_of(podman) as other:
        writer, reader = Record(one, f"{NAME}-busy"), Record(other, f"{NAME}-busy")
        id = writer.make(Owner("busy"))
        assert id is not None
        ended = threading.Event()

        def write() -> None:
            for number in range(40):
                writer.renew(id, number)
            ended.set()

        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(write)
            while not (ended.is_set() or writing.done()):
                assert reader.find() is not None
            writing.result()
        writer.remove(id)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a namespace")
def test_the_socket_of_the_holder_is_seen_in_its_namespace_alone() -> None:
    name = f"tests-{os.getpid()}"
    with identity.alone(name, "daemon") as held:
        assert identity.is_held(held)
        look = f"from inference_service.runtimes import identity; print(identity.is_held({held!r}))"
        command = ["unshare", "--net", sys.executable, "-c", look]
        assert subprocess.run(command, capture_output=True, check=True).stdout == b"False\n"
    assert not identity.is_held(held)
    assert str(Path("/proc/self/ns/net").readlink()) in identity.namespace()
