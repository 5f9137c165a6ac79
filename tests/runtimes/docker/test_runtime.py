"""Containers: their limits, ports and names."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from docker.errors import APIError
from docker.models.containers import Container

from inference_service.capacity.claims import GpuShare
from inference_service.errors import LaunchError
from inference_service.runtimes.base import Exit
from inference_service.runtimes.ports import Ports
from tests.docker import images
from tests.docker.daemon import Daemon
from tests.runtimes.beds import MIB, DockerBed, ask
from tests.runtimes.docker.beds import Open
from tests.waiting import PROMPTLY, SLOWLY, within

pytestmark = pytest.mark.docker

# The container.


async def test_the_limits_of_a_container(bed: DockerBed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    launch = bed.launch(gpus="auto", env={"COLOUR": "blue"})
    async with bed.runtime.run(launch) as running:
        facts = bed.inspect(running)
        config, host = facts["Config"], facts["HostConfig"]

    assert host["PortBindings"] == {
        "80/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(running.instance.port)}]
    }
    assert host["Memory"] == host["MemorySwap"] == 64 * MIB
    assert host["ShmSize"] == 1024 * MIB
    assert host["Init"] is True
    assert host["RestartPolicy"]["Name"] in ("", "no")
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "2"}
    assert not host["DeviceRequests"]
    assert not host["Privileged"]
    assert {"COLOUR=blue", "ENGINE_PORT=80", "ENGINE_HOST=0.0.0.0"} < {*config["Env"]}
    assert "HF_TOKEN=hf_secret" in config["Env"]
    assert "hf_secret" not in str(config["Labels"])
    labels = {key: config["Labels"][f"inference-service.{key}"] for key in ("model", "service")}
    assert labels == {"model": launch.key.model_id, "service": f"tests-{os.getpid()}"}


async def test_the_token_is_not_in_the_log(
    bed: DockerBed, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    async with bed.running() as running:
        assert await ask(running, "/env/HF_TOKEN") == "hf_secret"

    assert caplog.text  # the SDK logs its requests
    assert "hf_secret" not in caplog.text


async def test_all_models_share_a_volume_that_outlives_them(bed: DockerBed) -> None:
    async with bed.running("one") as one, bed.running("two") as two:
        mounts = [bed.inspect(running)["Mounts"] for running in (one, two)]

    assert [[(mount["Name"], mount["Destination"]) for mount in each] for each in mounts] == [
        [(f"tests-{os.getpid()}", "/data")]
    ] * 2
    assert bed.client.volumes.get(f"tests-{os.getpid()}")


async def test_files_cannot_be_written_by_the_engine(bed: DockerBed, tmp_path: Path) -> None:
    file = tmp_path / "weights.gguf"
    file.touch()
    async with bed.runtime.run(bed.launch(files={"WEIGHTS": file})) as running:
        mounts = {mount["Destination"]: mount for mount in bed.inspect(running)["Mounts"]}

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


async def test_an_engine_gets_gpus_by_name(open_bed: Open, daemon: Daemon) -> None:
    bed = open_bed(url=daemon.url, has_gpu=True)
    launch = bed.launch(gpus="auto")
    async with bed.runtime.run(launch, GpuShare(("GPU-b", "GPU-a"), 0.59999)) as running:
        await bed.serves(running)
        visible = await ask(running, "/env/NVIDIA_VISIBLE_DEVICES")
        request = bed.inspect(running)["HostConfig"]["DeviceRequests"]

    assert visible == "GPU-b,GPU-a"
    assert [(one["DeviceIDs"], one["Count"]) for one in request] == [(["GPU-b", "GPU-a"], 0)]


async def test_an_engine_gets_all_gpus_where_none_are_named(open_bed: Open, daemon: Daemon) -> None:
    bed = open_bed(url=daemon.url)
    async with bed.runtime.run(bed.launch(gpus="all")) as running:
        await bed.serves(running)
        assert await ask(running, "/env/NVIDIA_VISIBLE_DEVICES") == "all"


async def test_an_engine_beyond_its_memory_limit(bed: DockerBed) -> None:
    killed = within(SLOWLY, "the engine was not killed at its memory limit")
    async with bed.running(memory_bytes=32 * MIB) as running, killed:
        await ask(running, "/grow")

        assert await running.wait() == Exit(137, oom_killed=True)


async def test_the_bytes_that_files_take_on_the_disk(open_bed: Open, tgi_image: str) -> None:
    bed = open_bed()
    env = {"MODEL_ID": "org/model", "HF_HOME": "/data", "HOSTNAME": "0.0.0.0", "PORT": "80"}
    env |= {"DOUBLE_FAULT": "hang_downloading", "DOUBLE_WEIGHT_BYTES": f"{4 * MIB}"}
    blobs = "/data/hub/models--org--model/blobs"
    first = f"{blobs}/{hashlib.sha256(bytes(2 * MIB)).hexdigest()}"
    launch = bed.launch(image=tgi_image, env=env)
    async with bed.runtime.run(launch) as running:
        sizes = [0]
        async with within(SLOWLY, "the files did not take a MiB"):
            while sizes[-1] < MIB:  # it hangs half-way
                sizes.append(await running.disk_usage([first, f"{first}.incomplete"]) or 0)
        assert sizes == sorted(sizes)
        together = await running.disk_usage([blobs])
        assert together is not None
        assert sizes[-1] < together < 2 * MIB  # with the small files of a model
        assert await running.disk_usage(["/data/none"]) == 0

    assert await running.disk_usage([blobs]) is None  # the container has gone


async def test_the_bytes_are_unknown_without_du_in_the_image(bed: DockerBed) -> None:
    async with bed.running() as running:
        assert await running.disk_usage(["/"]) is None


async def test_a_command_that_does_not_exist(bed: DockerBed) -> None:
    launch = bed.launch(image=images.missing_command(bed.client))
    async with bed.runtime.run(launch) as running:
        assert await running.wait() == Exit(127)
        assert "No such file or directory" in running.tail(1)[0]


async def test_an_image_that_has_gone_since_the_pull(bed: DockerBed) -> None:
    with pytest.raises(LaunchError, match="there is no image inference-service-test/gone"):
        async with bed.runtime.run(bed.launch(image="inference-service-test/gone")):
            pass


@pytest.mark.parametrize(("how", "code"), [("stop", 143), ("remove", None)])
async def test_another_program_ends_the_container(
    bed: DockerBed, how: str, code: int | None
) -> None:
    async with bed.running() as running:
        container = bed.client.containers.get(running.instance.name)
        waiting = asyncio.create_task(running.wait())
        if how == "stop":
            await asyncio.to_thread(container.stop)
        else:
            await asyncio.to_thread(container.remove, force=True)

        async with within(PROMPTLY, "the end of the engine was not reported"):
            exit = await waiting
        assert exit.code in (code, 137) if how == "remove" else exit == Exit(code)


async def test_another_program_removes_the_container_at_the_same_time(bed: DockerBed) -> None:
    async with bed.running() as running:
        container = bed.client.containers.get(running.instance.name)
        removing = asyncio.create_task(asyncio.to_thread(remove, container))
    await removing


def remove(container: Container) -> None:
    try:
        container.remove(force=True)
    except APIError as error:  # the runtime was first
        assert error.status_code in (404, 409)


# Ports.


class Raced(Ports):
    """Ports of which another program takes the first few, each after it was found free."""

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


async def test_a_port_taken_before_the_start_is_passed_over(open_bed: Open, free: int) -> None:
    with Raced(free, free + 9, times=2) as ports:
        bed = open_bed(ports)
        async with bed.running() as running:
            assert running.instance.port >= free + 2
            assert await ask(running, "/env/ENGINE_PORT") == "80"


async def test_no_port_is_free(open_bed: Open, free: int) -> None:
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
    async with bed.running() as running:
        assert running.instance.name == f"{before}tgi-{bed.launch().key}"
        assert bed.inspect(running)["Name"] == f"/{running.instance.name}"


async def test_services_of_two_names_run_one_model_beside_each_other(open_bed: Open) -> None:
    one, two = open_bed(service="one"), open_bed(service="two")
    launch = one.launch()
    async with one.running() as first:
        async with two.running() as second:
            assert first.instance.name != second.instance.name
            assert await two.runtime.survivors({}) == {}  # removes its own
            assert two.left(launch) == []
            assert one.inspect(first)["State"]["Running"]
        async with two.running() as second:
            assert await ask(second, "/env/ENGINE_PORT") == "80"
        assert await ask(first, "/env/ENGINE_PORT") == "80"


async def test_a_strangers_container_is_left_alone(bed: DockerBed) -> None:
    launch = bed.launch()
    labels = {"inference-service.model": launch.key.model_id, "inference-service.service": "other"}
    stranger = bed.client.containers.create(bed.image, name=bed.name(launch), labels=labels)
    try:
        with pytest.raises(LaunchError, match=f"a container named {bed.name(launch)} exists"):
            async with bed.runtime.run(launch):
                pass

        stranger.reload()
        assert stranger.status == "created"
    finally:
        stranger.remove()
