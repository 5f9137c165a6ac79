"""What is special about containers: images, ports, limits, names, and a daemon that goes away."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import socket
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import ExitStack, aclosing, asynccontextmanager, contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from docker import DockerClient
from docker.errors import APIError, ImageNotFound
from docker.models.containers import Container

from inference_service.capacity.claims import GpuShare
from inference_service.errors import LaunchError, RuntimeUnavailable, StopFailed
from inference_service.lifecycle import Progress
from inference_service.runtimes.base import Exit, Instance, Launch
from inference_service.runtimes.docker import runtime as docker
from inference_service.runtimes.ports import Ports
from tests.docker import building, images
from tests.docker.daemon import Daemon
from tests.docker.needs import require_private_engine
from tests.docker.registry import Registry
from tests.docker.rootfs import Archive
from tests.runtimes.beds import MIB, DockerBed, ask, until
from tests.runtimes.tap import Tap

pytestmark = pytest.mark.docker

PROMPTLY = 5.0  # seconds, on a busy machine too

Open = Callable[..., DockerBed]


@pytest.fixture
async def open_bed(image: str, ports: Ports) -> AsyncGenerator[Open]:
    """Open beds, by default with these ports on the engine of the machine."""
    beds: list[DockerBed] = []

    def open_bed(ports: Ports = ports, url: str | None = None, **changes: Any) -> DockerBed:
        beds.append(DockerBed(image, ports, url, **changes))
        return beds[-1]

    yield open_bed
    for bed in beds:
        await bed.close()


@pytest.fixture
def bed(open_bed: Open) -> DockerBed:
    return open_bed()


@pytest.fixture(scope="module")
def private(docker_client: DockerClient, image: str) -> Iterator[Daemon]:
    """An engine to stop and kill, with the image; its containers outlive that."""
    require_private_engine()
    with Daemon(live_restore=True, nvidia=True) as daemon:
        copy(docker_client, image, daemon)
        yield daemon


@pytest.fixture
def daemon(private: Daemon) -> Iterator[Daemon]:
    """The same, running, and running again at the end."""
    private.start()
    yield private
    private.start()


def copy(client: DockerClient, image: str, daemon: Daemon) -> None:
    daemon.client.images.load(b"".join(client.images.get(image).save(named=True)))


# Images.


def push(client: DockerClient, registry: Registry, name: str, layers: int = 3) -> str:
    """Push an image of some MB that is in no engine; returns its reference."""
    names = [f"layer-{number}" for number in range(layers)]
    dockerfile = "\n".join(["FROM scratch", *(f"COPY {name} /" for name in names)])
    seed = os.urandom(8)

    def fill(archive: Archive) -> None:
        for file in names:
            content = random.Random(seed + file.encode()).randbytes(3_000_000)
            archive.write(PurePosixPath(file), content)

    image = building.image(client, "layers", dockerfile, [seed], fill)
    reference = registry.push(client, image, name)
    client.images.remove(image)
    return reference


@pytest.fixture
def pushed(docker_client: DockerClient, registry: Registry) -> Iterator[str]:
    reference = push(docker_client, registry, "model:1")
    yield reference
    forget(docker_client, reference)


def forget(client: DockerClient, image: str) -> None:
    if has(client, image):
        client.images.remove(image)


def has(client: DockerClient, image: str) -> bool:
    try:
        client.images.get(image)
    except ImageNotFound:
        return False
    return True


async def pull(bed: DockerBed, image: str) -> list[Progress]:
    """What a watcher of the pull sees."""
    seen: list[Progress] = []
    async with aclosing(bed.runtime.pull(bed.launch(image=image))) as pull:
        async for progress in pull:
            seen.append(progress.after(seen[-1] if seen else None))
    return seen


async def test_a_pull_counts_its_bytes_and_ends_at_one(open_bed: Open, pushed: str) -> None:
    bed = open_bed(pull_policy="missing")

    seen = await pull(bed, pushed)

    fractions = [progress.fraction for progress in seen if progress.fraction is not None]
    assert fractions == sorted(fractions)
    assert len(set(fractions)) > 5
    assert fractions[-1] == 1.0
    assert seen[-1].completed == seen[-1].total > 9_000_000
    assert has(bed.client, pushed)


async def test_a_pull_by_digest(open_bed: Open, pushed: str) -> None:
    bed = open_bed(pull_policy="missing")
    name = pushed.rpartition(":")[0]
    digest = bed.client.images.get_registry_data(pushed).id

    await pull(bed, f"{name}@{digest}")

    assert has(bed.client, f"{name}@{digest}")
    bed.client.images.remove(f"{name}@{digest}")


async def test_the_policies(open_bed: Open, registry: Registry, pushed: str) -> None:
    never, missing, always = (open_bed(pull_policy=p) for p in ("never", "missing", "always"))
    with pytest.raises(LaunchError, match=r"there is no image .* never"):
        await pull(never, pushed)
    await pull(missing, pushed)
    first = missing.client.images.get(pushed).id
    await pull(never, pushed)

    missing.client.images.remove(pushed)
    push(missing.client, registry, "model:1")
    await pull(missing, pushed)
    second = str(missing.client.images.get(pushed).id)
    push(missing.client, registry, "model:1")
    missing.client.api.tag(second, pushed.rpartition(":")[0], "1")
    assert await pull(missing, pushed) == []
    await pull(always, pushed)
    third = missing.client.images.get(pushed).id

    assert len({first, second, third}) == 3
    assert {progress.fraction for progress in await pull(always, pushed)} == {None}
    missing.client.images.remove(second)


async def test_a_pull_of_what_is_not_there(open_bed: Open, registry: Registry) -> None:
    bed = open_bed(pull_policy="missing")
    with pytest.raises(LaunchError, match="manifest unknown"):
        await pull(bed, f"{registry.address}/nothing:1")

    with pytest.raises(LaunchError, match="invalid reference format"):
        await pull(bed, "no/Such Name")

    registry.stop()
    with pytest.raises(LaunchError, match="connection refused"):
        await pull(bed, f"{registry.address}/nothing:1")


async def test_a_pull_goes_on_after_its_connections_broke(open_bed: Open, pushed: str) -> None:
    bed = open_bed(pull_policy="missing")
    address, _, name = pushed.partition("/")
    async with Tap(address, 4_000_000) as tap:
        pulling = asyncio.create_task(pull(bed, f"{tap.address}/{name}"))
        await tap.held.wait()
        tap.drop()
        seen = await pulling
        bed.client.images.remove(f"{tap.address}/{name}")

    assert any("Retrying" in progress.message for progress in seen)
    assert seen[-1].fraction == 1.0


async def test_a_pull_that_is_left_ends(open_bed: Open, pushed: str) -> None:
    bed = open_bed(pull_policy="missing")
    address, _, name = pushed.partition("/")
    async with Tap(address, 4_000_000) as tap:
        pulling = asyncio.create_task(pull(bed, f"{tap.address}/{name}"))
        await tap.held.wait()
        pulling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pulling
        tap.open()
        await bed.close()  # which waits for the thread

        assert not has(bed.client, f"{tap.address}/{name}")


async def test_a_full_disk_is_said(
    docker_client: DockerClient, open_bed: Open, pushed: str
) -> None:
    require_private_engine()
    with Daemon(disk_bytes=8 * MIB) as daemon:
        bed = open_bed(url=daemon.url, pull_policy="missing")
        with pytest.raises(LaunchError, match="no space left on device"):
            await pull(bed, pushed)
        await bed.close()


# The container.


async def test_what_a_container_may_and_may_not(
    bed: DockerBed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    launch = bed.launch(gpus="auto", env={"COLOUR": "blue"}, cpu_env={"CPU": "yes"})
    async with bed.runtime.run(launch) as instance:
        facts = bed.inspect(instance)
        config, host = facts["Config"], facts["HostConfig"]

    assert host["PortBindings"] == {
        "80/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(instance.port)}]
    }
    assert host["Memory"] == host["MemorySwap"] == launch.memory_bytes
    assert host["ShmSize"] == 1024 * MIB
    assert host["Init"] is True
    assert host["RestartPolicy"]["Name"] in ("", "no")
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "2"}
    assert not host["DeviceRequests"]
    assert not host["Privileged"]
    assert {"COLOUR=blue", "CPU=yes", "ENGINE_PORT=80", "ENGINE_HOST=0.0.0.0"} < {*config["Env"]}
    assert "HF_TOKEN=hf_secret" in config["Env"]
    assert "hf_secret" not in str(config["Labels"])
    labels = {key: config["Labels"][f"inference-service.{key}"] for key in ("model", "service")}
    assert labels == {"model": launch.model_id, "service": f"tests-{os.getpid()}"}


async def test_the_token_is_not_in_the_log(
    bed: DockerBed, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    async with bed.running() as instance:
        assert await ask(instance, "/env/HF_TOKEN") == "hf_secret"

    assert caplog.text  # the SDK logs its requests
    assert "hf_secret" not in caplog.text


async def test_all_models_share_a_volume_that_outlives_them(bed: DockerBed) -> None:
    async with bed.running("one") as one, bed.running("two") as two:
        mounts = [bed.inspect(instance)["Mounts"] for instance in (one, two)]

    assert [[(mount["Name"], mount["Destination"]) for mount in each] for each in mounts] == [
        [(f"tests-{os.getpid()}", "/data")]
    ] * 2
    assert bed.client.volumes.get(f"tests-{os.getpid()}")


async def test_files_cannot_be_written_by_the_engine(bed: DockerBed, tmp_path: Path) -> None:
    file = tmp_path / "weights.gguf"
    file.touch()
    async with bed.runtime.run(bed.launch(files={"WEIGHTS": file})) as instance:
        mounts = {mount["Destination"]: mount for mount in bed.inspect(instance)["Mounts"]}

    assert not mounts["/model/weights.gguf"]["RW"]


async def test_a_file_that_has_gone_is_not_made_a_folder(bed: DockerBed, tmp_path: Path) -> None:
    gone = tmp_path / "weights.gguf"
    with pytest.raises(LaunchError):
        async with bed.runtime.run(bed.launch(files={"WEIGHTS": gone})):
            pass

    assert not gone.exists()


async def test_gpus_that_are_asked_for_and_absent_are_an_error(bed: DockerBed) -> None:
    with pytest.raises(LaunchError, match="could not select device driver"):
        async with bed.runtime.run(bed.launch(gpus="all")):
            pass

    assert bed.left(bed.launch()) == []


async def test_gpus_are_given_by_name_and_the_engine_is_told_its_part(
    open_bed: Open, daemon: Daemon
) -> None:
    bed = open_bed(url=daemon.url, has_gpu=True)
    launch = bed.launch(gpus="auto", gpu_env=("COUNT", "PART"), cpu_env={"CPU": "yes"})
    assert bed.runtime.gives_gpus(launch)

    async with bed.runtime.run(launch, GpuShare(("GPU-b", "GPU-a"), 0.59999)) as instance:
        await bed.serves(instance)
        names = ("NVIDIA_VISIBLE_DEVICES", "COUNT", "PART", "CPU")
        told = [await ask(instance, f"/env/{name}") for name in names]
        request = bed.inspect(instance)["HostConfig"]["DeviceRequests"]

    assert told == ["GPU-b,GPU-a", "2", "0.599", ""]
    assert [(one["DeviceIDs"], one["Count"]) for one in request] == [(["GPU-b", "GPU-a"], 0)]


async def test_what_the_entry_says_of_gpus_wins(open_bed: Open, daemon: Daemon) -> None:
    bed = open_bed(url=daemon.url)
    launch = bed.launch(gpus="all", gpu_env=("COUNT", "PART"), env={"PART": "0.9"})
    async with bed.runtime.run(launch, GpuShare(("GPU-a",), 0.5)) as instance:
        await bed.serves(instance)
        assert [await ask(instance, f"/env/{name}") for name in ("COUNT", "PART")] == ["1", "0.9"]


@pytest.mark.parametrize(
    ("gpus", "has_gpu", "given"),
    [
        ("auto", True, True),
        ("auto", False, False),
        ("all", True, True),
        ("all", False, True),
        ("none", True, False),
    ],
)
def test_who_gets_gpus(open_bed: Open, gpus: str, has_gpu: bool, given: bool) -> None:
    bed = open_bed(has_gpu=has_gpu)

    assert bed.runtime.gives_gpus(bed.launch(gpus=gpus)) is given


async def test_all_gpus_where_none_are_named(open_bed: Open, daemon: Daemon) -> None:
    bed = open_bed(url=daemon.url)
    async with bed.runtime.run(bed.launch(gpus="all", gpu_env=("COUNT", "PART"))) as instance:
        await bed.serves(instance)
        names = ("NVIDIA_VISIBLE_DEVICES", "COUNT", "PART")
        assert [await ask(instance, f"/env/{name}") for name in names] == ["all", "", ""]


async def test_an_engine_beyond_its_memory_limit(bed: DockerBed) -> None:
    async with bed.running(memory_bytes=32 * MIB) as instance:
        await ask(instance, "/grow")

        assert await instance.wait() == Exit(137, oom_killed=True)


async def test_what_files_take_on_the_disk(open_bed: Open, tgi_image: str) -> None:
    bed = open_bed()
    env = {"MODEL_ID": "org/model", "HF_HOME": "/data", "HOSTNAME": "0.0.0.0", "PORT": "80"}
    env |= {"DOUBLE_FAULT": "hang_downloading", "DOUBLE_WEIGHT_BYTES": f"{4 * MIB}"}
    blobs = "/data/hub/models--org--model/blobs"
    first = f"{blobs}/{hashlib.sha256(bytes(2 * MIB)).hexdigest()}"
    launch = bed.launch(image=tgi_image, env=env)
    async with bed.runtime.run(launch) as instance:
        sizes = [0]
        while sizes[-1] < MIB:  # it hangs half-way
            sizes.append(await instance.disk_usage([first, f"{first}.incomplete"]) or 0)
        assert sizes == sorted(sizes)
        together = await instance.disk_usage([blobs])
        assert together is not None
        assert sizes[-1] < together < 2 * MIB  # with the small files of a model
        assert await instance.disk_usage(["/data/none"]) == 0

    assert await instance.disk_usage([blobs]) is None  # the container has gone


async def test_an_image_without_du_cannot_tell_what_files_take(bed: DockerBed) -> None:
    async with bed.running() as instance:
        assert await instance.disk_usage(["/"]) is None


async def test_a_command_that_does_not_exist(bed: DockerBed) -> None:
    launch = bed.launch(image=images.missing_command(bed.client))
    async with bed.runtime.run(launch) as instance:
        assert await instance.wait() == Exit(127)
        assert "No such file or directory" in instance.tail(1)[0]


async def test_an_image_that_has_gone_since_the_pull(bed: DockerBed) -> None:
    with pytest.raises(LaunchError, match="there is no image inference-service-test/gone"):
        async with bed.runtime.run(bed.launch(image="inference-service-test/gone")):
            pass


@pytest.mark.parametrize(("how", "code"), [("stop", 143), ("remove", None)])
async def test_somebody_else_ends_it(bed: DockerBed, how: str, code: int | None) -> None:
    async with bed.running() as instance:
        container = bed.client.containers.get(instance.name)
        waiting = asyncio.create_task(instance.wait())
        if how == "stop":
            await asyncio.to_thread(container.stop)
        else:
            await asyncio.to_thread(container.remove, force=True)

        async with asyncio.timeout(PROMPTLY):
            exit = await waiting
        assert exit.code in (code, 137) if how == "remove" else exit == Exit(code)


async def test_somebody_else_removes_it_at_the_same_time(bed: DockerBed) -> None:
    async with bed.running() as instance:
        container = bed.client.containers.get(instance.name)
        removing = asyncio.create_task(asyncio.to_thread(remove, container))
    await removing


def remove(container: Container) -> None:
    try:
        container.remove(force=True)
    except APIError as error:  # the other was first
        assert error.status_code in (404, 409)


# Ports.


class Raced(Ports):
    """Ports of which a stranger takes the first few, each after it was found free."""

    def __init__(self, first: int, last: int, times: int) -> None:
        super().__init__(first, last)
        self._times = times
        self._strangers = ExitStack()

    @contextmanager
    def claim(self, avoid: frozenset[int] = frozenset()) -> Iterator[int]:
        with super().claim(avoid) as port:
            if self._times:
                self._times -= 1
                self._strangers.enter_context(taken(port))
            yield port

    def __enter__(self) -> Raced:
        return self

    def __exit__(self, *_: object) -> None:
        self._strangers.close()


@contextmanager
def taken(port: int) -> Iterator[None]:
    with socket.create_server(("127.0.0.1", port)):
        yield


@pytest.fixture
def free(ports: Ports) -> int:
    """The first of a few ports that are free."""
    with ports.claim() as port:
        return port


async def test_a_port_taken_before_the_start_is_passed_over(open_bed: Open, free: int) -> None:
    with Raced(free, free + 9, times=2) as ports:
        bed = open_bed(ports)
        async with bed.running() as instance:
            assert instance.port >= free + 2
            assert await ask(instance, "/env/ENGINE_PORT") == "80"


async def test_all_ports_are_taken(open_bed: Open, free: int) -> None:
    bed = open_bed(Ports(free, free))
    with taken(free), pytest.raises(LaunchError, match=f"no port .* from {free} to {free}"):
        async with bed.runtime.run(bed.launch()):
            pass

    with Raced(free, free, times=1) as ports, pytest.raises(LaunchError, match="no port"):
        async with open_bed(ports).runtime.run(bed.launch()):
            pass

    assert bed.left(bed.launch()) == []


# Names.


@pytest.mark.parametrize("service", ["inference-service", "other"])
async def test_the_container_of_the_default_service_has_the_documented_name(
    open_bed: Open, service: str
) -> None:
    bed = open_bed(service=service)
    before = "" if service == "inference-service" else "other-"
    async with bed.running() as instance:
        assert instance.name == f"{before}tgi-{bed.launch().model_id}"
        assert bed.inspect(instance)["Name"] == f"/{instance.name}"


async def test_services_of_two_names_run_one_model_beside_each_other(open_bed: Open) -> None:
    one, two = open_bed(service="one"), open_bed(service="two")
    launch = one.launch()
    async with one.running() as first:
        async with two.running() as second:
            assert first.name != second.name
            assert await two.runtime.survivors({}) == {}  # it removes what it has
            assert two.left(launch) == []
            assert one.inspect(first)["State"]["Running"]
        async with two.running() as second:
            assert await ask(second, "/env/ENGINE_PORT") == "80"
        assert await ask(first, "/env/ENGINE_PORT") == "80"


async def test_a_strangers_container_is_left_alone(bed: DockerBed) -> None:
    launch = bed.launch()
    labels = {"inference-service.model": launch.model_id, "inference-service.service": "other"}
    stranger = bed.client.containers.create(bed.image, name=bed.name(launch), labels=labels)
    try:
        with pytest.raises(LaunchError, match=f"a container named {bed.name(launch)} exists"):
            async with bed.runtime.run(launch):
                pass

        stranger.reload()
        assert stranger.status == "created"
    finally:
        stranger.remove()


# What an earlier run of the service has left.


@asynccontextmanager
async def abandoned(
    bed: DockerBed, launch: Launch, gpus: GpuShare | None = None
) -> AsyncGenerator[Instance]:
    """An engine of a service that was killed: nobody leaves its `run` before the test is over."""
    run = bed.runtime.run(launch, gpus)
    instance = await run.__aenter__()
    await bed.serves(instance)
    yield instance
    await run.__aexit__(None, None, None)


async def test_an_engine_that_fits_is_taken_over(open_bed: Open) -> None:
    killed, heir = open_bed(), open_bed()
    launch = killed.launch()
    async with abandoned(killed, launch) as before:
        old = killed.inspect(before)["Id"]
        await killed.say(before, "before")
        async with heir.running() as after:
            assert heir.inspect(after)["Id"] == old
            assert after.port == before.port
            await heir.say(after, "after")
            await heir.end(after, 3)

            assert await after.wait() == Exit(3)
            assert after.tail(9) == ("serving", "before", "after")


@pytest.mark.parametrize("changes", [{"env": {"COLOUR": "blue"}}, {"memory_bytes": 65 * MIB}])
async def test_an_engine_that_does_not_fit_gives_way(
    open_bed: Open, changes: dict[str, Any]
) -> None:
    killed, heir = open_bed(), open_bed()
    async with abandoned(killed, killed.launch()) as before:
        old = killed.inspect(before)["Id"]
        async with heir.running(**changes) as after:
            assert heir.inspect(after)["Id"] != old
            async with asyncio.timeout(PROMPTLY):
                assert isinstance(await before.wait(), Exit)


async def test_an_engine_that_has_ended_gives_way(open_bed: Open) -> None:
    killed, heir = open_bed(), open_bed()
    async with abandoned(killed, killed.launch()) as before:
        await killed.end(before, 0)
        await before.wait()
        async with heir.running() as after:
            assert await ask(after, "/env/ENGINE_PORT") == "80"


async def test_survivors_are_those_that_fit_and_others_are_removed(open_bed: Open) -> None:
    killed, heir = open_bed(), open_bed()
    one, two, three = (killed.launch(which) for which in ("one", "two", "three"))
    changed = {one.model_id: one, two.model_id: heir.launch("two", env={"COLOUR": "blue"})}
    async with abandoned(killed, one), abandoned(killed, two), abandoned(killed, three):
        assert await heir.runtime.survivors(changed) == {one.model_id: ()}
        assert killed.left(one)
        assert killed.left(two) == killed.left(three) == []


async def test_survivors_are_taken_over_on_their_own_gpus(open_bed: Open, daemon: Daemon) -> None:
    killed, heir, third = (open_bed(url=daemon.url) for _ in range(3))
    launch = killed.launch(gpus="all")
    here, there = GpuShare(("GPU-b", "GPU-a"), 1.0), GpuShare(("GPU-b",), 1.0)
    async with abandoned(killed, launch, here) as before:
        old = killed.inspect(before)["Id"]
        kept = await heir.runtime.survivors({launch.model_id: launch})
        assert {model_id: {*ids} for model_id, ids in kept.items()} == {
            launch.model_id: {"GPU-a", "GPU-b"}
        }
        heir.runtime.leave()
        async with heir.runtime.run(launch, here) as after:
            assert heir.inspect(after)["Id"] == old
        async with third.runtime.run(launch, there) as after:
            assert third.inspect(after)["Id"] != old


async def test_engines_can_be_left_to_the_next_service(open_bed: Open) -> None:
    first, heir = open_bed(), open_bed()
    launch = first.launch()
    async with first.runtime.run(launch) as before:
        await first.serves(before)
        old = first.inspect(before)["Id"]
        first.runtime.leave()
    assert first.left(launch)

    async with heir.running() as after:
        assert heir.inspect(after)["Id"] == old


# A daemon that goes away.


async def test_no_daemon(ports: Ports, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none")
    with pytest.raises(RuntimeUnavailable, match="No such file"):
        await docker.connect(ports, service="s", volume="v", pull_policy="never")


@pytest.mark.slow
async def test_a_daemon_that_hangs(
    ports: Ports, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/silent")
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(f"{tmp_path}/silent")
        silent.listen()
        connecting = asyncio.create_task(
            docker.connect(ports, service="s", volume="v", pull_policy="never")
        )
        done, _ = await asyncio.wait([connecting], timeout=15)
    with pytest.raises(RuntimeUnavailable):
        await connecting

    assert done


async def test_connect_to_the_engine_of_the_machine(
    docker_client: DockerClient, ports: Ports
) -> None:
    runtime = await docker.connect(ports, service="s", volume="v", pull_policy="never")
    await runtime.aclose()

    assert "GPU" in runtime.describe()


async def test_the_daemon_is_away_and_comes_back(open_bed: Open, daemon: Daemon) -> None:
    bed = open_bed(url=daemon.url)
    await asyncio.to_thread(daemon.stop)
    with pytest.raises(RuntimeUnavailable):
        await pull(bed, bed.image)
    with pytest.raises(RuntimeUnavailable):
        async with bed.runtime.run(bed.launch()):
            pass

    await asyncio.to_thread(daemon.start)
    async with bed.running():
        pass


async def test_the_daemon_goes_during_a_start(open_bed: Open, daemon: Daemon, free: int) -> None:
    class Deadly(Ports):
        @contextmanager
        def claim(self, avoid: frozenset[int] = frozenset()) -> Iterator[int]:
            with super().claim(avoid) as port:
                daemon.kill()
                yield port

    bed = open_bed(Deadly(free, free), url=daemon.url)
    with pytest.raises(RuntimeUnavailable):
        async with bed.runtime.run(bed.launch()):
            pass

    daemon.start()
    assert bed.left(bed.launch()) == []


async def test_the_daemon_goes_during_a_pull(open_bed: Open, daemon: Daemon, pushed: str) -> None:
    bed = open_bed(url=daemon.url, pull_policy="missing")
    address, _, name = pushed.partition("/")
    async with Tap(address, 4_000_000) as tap:
        pulling = asyncio.create_task(pull(bed, f"{tap.address}/{name}"))
        await tap.held.wait()
        daemon.kill()
        with pytest.raises(RuntimeUnavailable):
            await pulling


@asynccontextmanager
async def not_removed(bed: DockerBed, daemon: Daemon) -> AsyncGenerator[Instance]:
    """An engine whose daemon was away when it should have been removed, and is back."""
    launch = bed.launch()
    with pytest.raises(StopFailed, match=f"docker rm -f {bed.name(launch)}"):
        async with bed.runtime.run(launch) as instance:
            await bed.serves(instance)
            waiting = asyncio.create_task(instance.wait())
            await asyncio.to_thread(daemon.stop)
    assert bed.runtime.lingers(launch)

    await asyncio.to_thread(daemon.start)
    yield instance
    async with asyncio.timeout(PROMPTLY):
        assert isinstance(await waiting, Exit)
    assert not bed.runtime.lingers(launch)
    assert bed.left(launch) == []


async def test_the_daemon_is_away_at_the_stop_and_removes_when_it_is_back(
    open_bed: Open, daemon: Daemon
) -> None:
    bed = open_bed(url=daemon.url, removal_interval=0.05)
    async with not_removed(bed, daemon):
        await until(lambda: not bed.runtime.lingers(bed.launch()), "it lingers for ever")


async def test_what_could_not_be_removed_can_be_taken_over(open_bed: Open, daemon: Daemon) -> None:
    bed = open_bed(url=daemon.url)
    async with not_removed(bed, daemon) as before:
        old = bed.inspect(before)["Id"]
        async with bed.running() as after:
            assert bed.inspect(after)["Id"] == old
            assert not removals()


async def test_a_runtime_that_is_closed_tries_no_more(open_bed: Open, daemon: Daemon) -> None:
    bed = open_bed(url=daemon.url)
    with pytest.raises(StopFailed):
        async with bed.running():
            await asyncio.to_thread(daemon.stop)
    assert removals()
    await bed.runtime.aclose()

    assert not removals()
    await asyncio.to_thread(daemon.start)


def removals() -> list[asyncio.Task[Any]]:
    """The removals that are being tried again."""
    return [task for task in asyncio.all_tasks() if task.get_name().startswith("removal of ")]


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_an_engine_outlives_the_daemon(open_bed: Open, daemon: Daemon, how: str) -> None:
    bed = open_bed(url=daemon.url)
    async with bed.running() as instance:
        waiting = asyncio.create_task(instance.wait())
        await bed.say(instance, "before")
        async with aclosing(instance.logs()) as lines:
            seen = [await anext(lines), await anext(lines)]
            await asyncio.to_thread(getattr(daemon, how))
            await asyncio.to_thread(daemon.start)
            await bed.say(instance, "after")
            seen.append(await anext(lines))
        assert not waiting.done()
        await bed.end(instance, 3)

        assert await waiting == Exit(3)
        assert instance.tail(9) == ("serving", "before", "after") == tuple(seen)


async def test_an_engine_dies_while_the_daemon_is_away(open_bed: Open, daemon: Daemon) -> None:
    bed = open_bed(url=daemon.url)
    async with bed.running() as instance:
        waiting = asyncio.create_task(instance.wait())
        await asyncio.to_thread(daemon.stop)
        for pid in bed.processes(instance):
            os.kill(pid, 9)
        await asyncio.to_thread(daemon.start)

        async with asyncio.timeout(PROMPTLY):
            assert (await waiting).code == 137


async def test_an_engine_ends_with_a_daemon_that_takes_it_along(
    docker_client: DockerClient, image: str, open_bed: Open
) -> None:
    require_private_engine()
    with Daemon() as daemon:
        copy(docker_client, image, daemon)
        bed = open_bed(url=daemon.url)
        async with bed.running() as instance:
            waiting = asyncio.create_task(instance.wait())
            await asyncio.to_thread(daemon.stop)
            await asyncio.to_thread(daemon.start)

            async with asyncio.timeout(PROMPTLY):
                assert (await waiting).code == 143
        await bed.close()
