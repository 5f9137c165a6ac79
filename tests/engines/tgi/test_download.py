"""The bytes of a download, which TGI's log does not report."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from inference_service.engines.tgi.engine import Tgi
from inference_service.lifecycle import Phase, Progress
from tests.doubles.hub import Hub
from tests.engines.beds import SEAT, tgi_spec
from tests.engines.waiting import soon
from tests.fakes import FakeRunning

REPO = "some/model"
OFTEN = 0.005  # seconds from one look to the next
ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.fixture
async def hub() -> AsyncGenerator[Hub]:
    """A hub whose model has 6000 bytes of weights, and other files."""
    async with Hub() as hub:
        sizes = {ONE: 4000, TWO: 2000, "pytorch_model.bin": 5000, "training_args.bin": 300}
        sizes |= {"config.json": 20, "onnx/model.safetensors": 900, "args.safetensors": 10}
        for name, size in sizes.items():
            hub.add(REPO, name, bytes([size % 256]) * size)
        yield hub


class Start:
    """A start of TGI that a test plays, and its progress."""

    def __init__(self) -> None:
        self.running = FakeRunning("tgi-model", 8080)
        self.paths: list[str] = []
        self.steps: list[Progress] = []
        self.looked = asyncio.Event()
        self.looks = 0
        self.may_look = asyncio.Event()
        self.may_look.set()
        self.fault: Exception | None = None
        self._more = asyncio.Event()

        async def disk_usage(paths: list[str]) -> int | None:
            self.paths = paths
            self.looks += 1
            self.looked.set()
            await self.may_look.wait()
            if self.fault is not None:
                raise self.fault
            return self.running.usage

        self.running.disk_usage = disk_usage  # type: ignore[method-assign, assignment]

    async def follow(self, steps: AsyncGenerator[Progress]) -> None:
        """Note each step until the start is over."""
        async for step in steps:
            self.steps.append(step)
            self._more.set()

    def log(self, message: str) -> None:
        """Write a line of the launcher."""
        self.running.log.append(json.dumps({"level": "INFO", "fields": {"message": message}}))

    async def find(self, **facts: object) -> Progress:
        """Return the next progress with these fields, and drop those before it."""
        return await soon(self._next(facts), f"progress with {facts}")

    async def _next(self, facts: Mapping[str, object]) -> Progress:
        while True:
            while self.steps:
                step = self.steps.pop(0)
                if all(getattr(step, name) == fact for name, fact in facts.items()):
                    return step
            self._more.clear()
            await self._more.wait()


@asynccontextmanager
async def progress(
    start: Start, env: Mapping[str, str]
) -> AsyncGenerator[tuple[Start, AsyncGenerator[Progress]]]:
    engine = Tgi("", look_every=OFTEN)
    command = engine.command(tgi_spec(), SEAT)
    command = replace(command, env={**command.env, **env})
    async with aclosing(engine.progress(command, start.running)) as steps:
        yield start, steps
    await engine.aclose()


@asynccontextmanager
async def starting(env: Mapping[str, str]) -> AsyncGenerator[Start]:
    async with progress(Start(), env) as (start, steps):
        following = asyncio.create_task(start.follow(steps))
        try:
            yield start
            start.running.log.close()
            await soon(following, "the end of the progress after that of the log")
        finally:
            following.cancel()
            await asyncio.wait([following])


async def test_bytes_are_reported_with_their_total_and_the_files(hub: Hub) -> None:
    async with starting({"HF_ENDPOINT": hub.url}) as start:
        start.log("Starting check and download process for some/model")
        start.log(f"Download file: {ONE}")
        start.running.usage = 1024
        first = await start.find(unit="bytes")
        assert (first.completed, first.total, first.fraction) == (1024, 6000, 1024 / 6000)
        assert first.message == f"Download file: {ONE}"

        start.log("Download: [1/2] -- ETA: 0:01:02")
        assert await start.find(message="Download: [1/2] -- ETA: 0:01:02") == replace(
            first, message="Download: [1/2] -- ETA: 0:01:02"
        )
        start.log(f"Download file: {TWO}")
        await start.find(message=f"Download file: {TWO} (1 of 2 files)")
        start.running.usage = 5120
        second = await start.find(completed=5120)
        assert second.message == f"Download file: {TWO} (1 of 2 files)"

        start.running.usage = 8192  # whole blocks, of which the last are not full
        assert (await start.find(completed=6000)).fraction == 1.0


async def test_a_download_that_is_faster_than_a_look_is_reported_at_its_end(hub: Hub) -> None:
    async with starting({"HF_ENDPOINT": hub.url}) as start:
        start.log(f"Download file: {ONE}")
        start.running.usage = 1
        await start.find(total=6000)
        start.running.usage = None
        start.log("Download: [2/2] -- ETA: 0")
        assert (await start.find(completed=6000)).fraction == 1.0


async def test_the_files_on_the_disk_have_the_names_of_the_hub(hub: Hub) -> None:
    async with starting({"HF_ENDPOINT": hub.url, "HF_HOME": "/cache"}) as start:
        start.log("Download file: pytorch_model.bin")
        start.running.usage = 1024
        assert (await start.find(unit="bytes")).total == 5000

    (blob, partial) = start.paths
    assert partial == f"{blob}.incomplete"
    assert blob.startswith("/cache/hub/models--some--model/blobs/")
    assert len(blob.rpartition("/")[2]) == 64


@pytest.mark.parametrize("token", ["good", "bad"])
async def test_a_gated_model_needs_the_token(hub: Hub, token: str) -> None:
    hub.repositories[REPO].gated = True
    hub.tokens.add("good")
    async with starting({"HF_ENDPOINT": hub.url, "HF_TOKEN": token}) as start:
        start.log(f"Download file: {ONE}")
        start.running.usage = 1024
        found = await start.find(unit="bytes")

    assert (found.total, found.fraction) == ((6000, 1024 / 6000) if token == "good" else (0, None))


@pytest.mark.parametrize("fault", ["refuses", "fails", "is no hub"])
async def test_without_the_hub_there_are_bytes_without_a_total(hub: Hub, fault: str) -> None:
    match fault:
        case "refuses":
            await hub.refuse()
        case "fails":
            hub.status = 500
        case _:
            hub.status = 200
    async with starting({"HF_ENDPOINT": hub.url}) as start:
        start.log(f"Download file: {ONE}")
        start.running.usage = 2048
        first = await start.find(unit="bytes")
        assert (first.completed, first.total, first.fraction) == (2048, 0, None)
        assert start.paths == ["/data/hub/models--some--model/blobs"]

        start.log("Download: [1/2] -- ETA: 0:01:02")
        assert (await start.find(fraction=0.5)).completed == 2048


@pytest.mark.parametrize(
    "file",
    [
        {"blobId": "../../../etc/passwd"},
        {"blobId": "a" * 40, "lfs": {"sha256": "../" * 20}},
        {"blobId": "a" * 40, "lfs": {"sha256": "a" * 64 + "\n"}},
        {"blobId": "a" * 40, "size": -1},
        {"blobId": "a" * 40, "size": 10**18},
        {"blobId": "a" * 40, "size": 10**400},
        {"blobId": "a" * 40, "more": "x" * (20 << 20)},
    ],
    ids=lambda file: str(file)[:40],
)
async def test_a_hub_that_names_files_by_no_digest_is_not_believed(file: dict[str, Any]) -> None:
    listed = {"siblings": [{"rfilename": ONE, "size": 1, **file}]}
    body = json.dumps(listed).encode()

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=body)

    application = web.Application()
    application.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(application, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with starting({"HF_ENDPOINT": url}) as start:
        start.log(f"Download file: {ONE}")
        start.running.usage = 2048
        assert (await start.find(unit="bytes")).total == 0
        assert start.paths == ["/data/hub/models--some--model/blobs"]
    await runner.cleanup()


@pytest.mark.parametrize("usage", [None, 0])
async def test_files_are_counted_where_bytes_cannot_be(hub: Hub, usage: int | None) -> None:
    async with starting({"HF_ENDPOINT": hub.url}) as start:
        start.running.usage = usage
        start.log(f"Download file: {ONE}")
        await soon(start.looked.wait(), "a look")
        start.log("Download: [1/2] -- ETA: 0:01:02")
        found = await start.find(unit="files")

    assert (found.completed, found.total, found.fraction) == (1, 2, 0.5)


async def test_before_the_answer_of_the_hub_there_is_no_fraction_that_could_fall() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with starting(
            {"HF_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        ) as start:
            start.log(f"Download file: {ONE}")
            start.log("Download: [1/2] -- ETA: 0:01:02")
            assert (await start.find(unit="files")).fraction is None


async def test_the_hub_is_not_asked_for_weights_on_the_disk(hub: Hub) -> None:
    async with starting({"HF_ENDPOINT": hub.url}) as start:
        start.log("Starting check and download process for some/model")
        start.log("Files are already present on the host. Skipping download.")
        start.log("Successfully downloaded weights for some/model")
        await start.find(message="Successfully downloaded weights for some/model")

    assert hub.requests == []
    assert start.paths == []


@pytest.mark.parametrize(
    ("line", "phase"),
    [
        ("Starting shard", Phase.LOADING_WEIGHTS),
        ("Convert: [1/2] -- Took: 0:00:07", Phase.DOWNLOADING_WEIGHTS),
    ],
)
async def test_there_are_no_looks_after_the_download(hub: Hub, line: str, phase: Phase) -> None:
    async with starting({"HF_ENDPOINT": hub.url}) as start:
        start.log(f"Download file: {ONE}")
        start.running.usage = 1024
        await start.find(unit="bytes")
        start.log(line)
        assert (await start.find(message=line)).phase is phase
        looks = start.looks
        await asyncio.sleep(10 * OFTEN)
        assert start.looks == looks


async def test_an_error_of_a_look_is_logged_and_the_start_goes_on(
    hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    async with starting({"HF_ENDPOINT": hub.url}) as start:
        start.fault = RuntimeError("odd")
        start.log(f"Download file: {ONE}")
        await soon(start.looked.wait(), "a look")
        start.log(f"Download file: {TWO}")
        start.log("Download: [1/2] -- ETA: 0:01:02")
        assert (await start.find(unit="files")).fraction == 0.5
        start.log("Starting shard")
        await start.find(phase=Phase.LOADING_WEIGHTS)

    assert start.looks == 1
    (record,) = caplog.records
    assert "is shown without bytes" in record.message
    assert record.exc_info is not None and record.exc_info[1] is start.fault


@pytest.mark.parametrize("moment", ["the hub is asked", "a look", "a pause"])
async def test_closing_the_progress_leaves_no_task(hub: Hub, moment: str) -> None:
    tasks = asyncio.all_tasks()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = hub.url
        if moment == "the hub is asked":
            url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        async with progress(Start(), {"HF_ENDPOINT": url}) as (start, steps):
            start.running.usage = 1024
            start.log(f"Download file: {ONE}")
            if moment == "a look":
                start.may_look.clear()
            await soon(anext(steps), "the line of the log")
            if moment == "a look":
                await soon(start.looked.wait(), "a look")
            elif moment == "a pause":
                await soon(anext(steps), "the bytes of a look")
            assert asyncio.all_tasks() > tasks

    assert asyncio.all_tasks() == tasks
