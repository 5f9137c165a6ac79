"""Weights from a hub, with the real protocol over loopback."""

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tests.doubles.hub import Hub
from tests.doubles.proxy import socks

from .conftest import Start, Worker

REPO, FILE = "maker/story-GGUF", "q8/story.gguf"


class Download(Protocol):
    async def __call__(self, **environment: str) -> Worker: ...


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "hf"


@pytest.fixture
def commit(hub: Hub, story: bytes) -> str:
    return hub.add(REPO, FILE, story)


@pytest.fixture
def download(start: Start, hub: Hub, home: Path, commit: str) -> Download:
    """Start a worker with the story model from the hub."""

    async def download(**environment: str) -> Worker:
        wanted = {"LLAMACPP_REPO": REPO, "LLAMACPP_FILE": FILE}
        return await start(
            **{**wanted, "HF_HOME": str(home), "HF_ENDPOINT": hub.url, **environment}
        )

    return download


def blobs(home: Path) -> list[Path]:
    return [path for path in home.glob("hub/models--*/blobs/*") if path.is_file()]


async def served(worker: Worker) -> list[str]:
    """Return the names of the events up to `serving`, each once."""
    await worker.until("serving")
    return list(dict.fromkeys(event["event"] for event in worker.events))


async def test_progress_and_cache(
    download: Download, home: Path, commit: str, story: bytes
) -> None:
    worker = await download()
    assert await served(worker) == ["asking", "downloading", "verifying", "loading", "serving"]
    assert worker.events[0] == {"event": "asking", "file": FILE, "repo": REPO}
    steps = [event for event in worker.events if event["event"] == "downloading"]
    counts = [event["completed_bytes"] for event in steps]
    assert counts[0] == 0
    assert counts[-1] == len(story)
    assert counts == sorted(counts)
    assert {event["total_bytes"] for event in steps} == {len(story)}
    assert {event["file"] for event in worker.events if "total_bytes" in event} == {FILE}
    (blob,) = blobs(home)
    assert blob.name == hashlib.sha256(story).hexdigest()
    snapshot = home / "hub" / "models--maker--story-GGUF" / "snapshots" / commit / FILE
    assert snapshot.resolve() == blob.resolve()


async def test_progress_is_no_flood(download: Download, hub: Hub, story: bytes) -> None:
    hub.bytes_per_second = len(story)
    worker = await download()
    await served(worker)
    assert 3 <= sum(event["event"] == "downloading" for event in worker.events) <= 10


async def test_huggingface_hub_finds_the_file(download: Download, home: Path, commit: str) -> None:
    await served(await download())
    script = f"import huggingface_hub as h; print(h.hf_hub_download({REPO!r}, {FILE!r}))"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        script,
        env={**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert commit in output.decode()


@pytest.mark.parametrize("revision", ["main", "commit"])
async def test_a_cached_file_needs_no_hub(
    download: Download, hub: Hub, commit: str, revision: str
) -> None:
    await served(await download())
    await hub.refuse()
    asks = [] if revision == "commit" else ["asking"]
    revision = commit if revision == "commit" else revision
    worker = await download(LLAMACPP_REVISION=revision)
    assert await served(worker) == [*asks, "loading", "serving"]


async def test_a_cached_commit_asks_the_hub_nothing(
    download: Download, hub: Hub, commit: str
) -> None:
    await served(await download())
    before = len(hub.requests)
    assert await served(await download(LLAMACPP_REVISION=commit)) == ["loading", "serving"]
    assert len(hub.requests) == before


async def test_a_cached_branch_serves_when_the_hub_fails(download: Download, hub: Hub) -> None:
    await served(await download())
    hub.status = 503
    assert await served(await download()) == ["asking", "loading", "serving"]


async def test_a_branch_that_moved_is_downloaded_again(
    download: Download, hub: Hub, home: Path, story: bytes
) -> None:
    await served(await download())
    hub.add(REPO, FILE, story + bytes(32))
    assert "downloading" in await served(await download())
    assert len(blobs(home)) == 2


async def test_a_download_goes_on_after_a_cut_connection(
    download: Download, hub: Hub, story: bytes
) -> None:
    third = hub.cut_after = len(story) // 3 + 1
    await served(await download())
    ranges = [request.range for request in hub.sent()]
    assert ranges == [None, f"bytes={third}-", f"bytes={2 * third}-"]


async def test_a_download_that_was_killed_goes_on(
    download: Download, hub: Hub, home: Path, story: bytes
) -> None:
    hub.hold_after = 2_000_000
    worker = await download()
    await until_held(home, 2_000_000)
    worker.process.kill()
    assert await worker.exit() == -signal.SIGKILL
    hub.hold_after = None
    worker = await download()
    await served(worker)
    assert worker.events[1]["completed_bytes"] >= 2_000_000
    assert [request.range for request in hub.sent()][:2] == [None, "bytes=2000000-"]
    assert [blob.stat().st_size for blob in blobs(home)] == [len(story)]


async def test_a_download_can_be_stopped(download: Download, hub: Hub, home: Path) -> None:
    hub.hold_after = 1_000_000
    worker = await download()
    await worker.until("downloading")
    worker.process.terminate()
    assert await worker.exit() == 0


async def test_a_storage_without_ranges(
    download: Download, hub: Hub, home: Path, story: bytes
) -> None:
    hub.hold_after = 1_000_000
    worker = await download()
    await until_held(home, 1_000_000)
    worker.process.kill()
    await worker.exit()
    hub.hold_after, hub.ranges = None, False
    await served(await download())
    assert [blob.stat().st_size for blob in blobs(home)] == [len(story)]


async def until_held(home: Path, size: int) -> None:
    """Wait until so many bytes are on the disk: a worker killed after that leaves no fewer."""
    end = time.monotonic() + 60
    while not any(blob.stat().st_size >= size for blob in blobs(home)):
        assert time.monotonic() < end, f"no file of {size:,} bytes in 60 s: {blobs(home)}"
        await asyncio.sleep(0.01)


async def test_two_workers_download_a_file_once(
    download: Download, hub: Hub, home: Path, story: bytes
) -> None:
    hub.hold_after = 1_000_000
    workers = [await download(), await download()]
    for worker in workers:
        assert (await worker.until("downloading"))["total_bytes"] == len(story)
    hub.release()
    for worker in workers:
        assert (await served(worker))[-2:] == ["loading", "serving"]
    assert len(hub.sent()) == 1
    assert [blob.read_bytes() == story for blob in blobs(home)] == [True]


async def test_one_of_two_is_killed(download: Download, hub: Hub, home: Path, story: bytes) -> None:
    hub.hold_after = 1_000_000
    first = await download()
    await until_held(home, 1_000_000)
    second = await download()
    await second.until("downloading")
    hub.hold_after = None
    first.process.kill()
    await served(second)
    assert [request.range for request in hub.sent()] == [None, "bytes=1000000-"]
    assert [blob.read_bytes() == story for blob in blobs(home)] == [True]


async def test_damaged_on_the_way(download: Download, hub: Hub, home: Path) -> None:
    hub.corrupt = True
    code, reason, message = await (await download()).failure()
    assert (code, reason) == (3, "CHECKSUM_MISMATCH")
    assert FILE in message
    assert blobs(home) == []
    hub.corrupt = False
    assert "downloading" in await served(await download())


async def test_damaged_on_the_disk(
    download: Download, home: Path, commit: str, story: bytes
) -> None:
    await served(await download())
    (blob,) = blobs(home)
    blob.write_bytes(story[:-1] + bytes([story[-1] ^ 1]))
    code, reason, _ = await (await download(LLAMACPP_REVISION=commit)).failure()
    assert (code, reason) == (3, "CHECKSUM_MISMATCH")
    assert blobs(home) == []


async def test_another_checksum_than_the_wanted_one(
    download: Download, hub: Hub, home: Path
) -> None:
    worker = await download(LLAMACPP_SHA256="0" * 64)
    code, reason, message = await worker.failure()
    assert (code, reason) == (3, "WRONG_FILE")
    assert "LLAMACPP_SHA256" in message
    assert hub.sent() == []


async def test_a_gated_repository(download: Download, hub: Hub) -> None:
    hub.repositories[REPO].gated = True
    hub.tokens.add("hf_accepted")
    for token in ({}, {"HF_TOKEN": "hf_stranger"}):
        worker = await download(**token)
        code, reason, message = await worker.failure()
        assert (code, reason) == (3, "GATED")
        assert worker.events[-1]["phase"] == "downloading"
        assert f"{hub.url}/{REPO}" in message
        assert "HF_TOKEN" in message
        assert "hf_stranger" not in f"{worker.events} {await worker.errors()}"
    await served(await download(HF_TOKEN="hf_accepted"))
    assert {request.token for request in hub.sent()} == {None}  # the storage never gets the token


@pytest.mark.parametrize(
    ("environment", "reason", "part"),
    [
        ({"LLAMACPP_REPO": "no/body"}, "REPO_NOT_FOUND", "no/body"),
        ({"LLAMACPP_FILE": "no.gguf"}, "FILE_NOT_FOUND", "has no file no.gguf"),
        ({"LLAMACPP_REVISION": "v9"}, "REVISION_NOT_FOUND", "has no revision v9"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "HUB_UNREACHABLE", "http://127.0.0.1:9"),
        ({"HF_HUB_OFFLINE": "1"}, "HUB_UNREACHABLE", "uncached"),
        ({"HF_HOME": "/proc/none"}, "CACHE_UNUSABLE", "/proc/none"),
        ({"SSL_CERT_FILE": "/none"}, "CERTIFICATES_UNUSABLE", "SSL_CERT_FILE (/none)"),
        ({"SSL_CERT_FILE": "/dev/null"}, "CERTIFICATES_UNUSABLE", "SSL_CERT_FILE (/dev/null)"),
    ],
)
async def test_causes(
    download: Download, environment: dict[str, str], reason: str, part: str
) -> None:
    worker = await download(**environment)
    code, given, message = await worker.failure()
    assert (code, given) == (3, reason)
    assert part in message


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
async def test_a_proxy_of_socks(download: Download, scheme: str) -> None:
    async with socks() as proxy:
        every = {"ALL_PROXY": f"{scheme}://127.0.0.1:{proxy.port}", "NO_PROXY": "", "no_proxy": ""}
        await served(await download(**every))
        assert set(proxy.asked) == {"127.0.0.1"}

    # It is in the way of nothing that is here already, or that goes without a proxy.
    await served(await download(**every | {"NO_PROXY": "127.0.0.1"}))


@pytest.mark.parametrize(("status", "storage_status"), [(500, None), (None, 404)])
async def test_a_hub_that_fails(
    download: Download, hub: Hub, status: int | None, storage_status: int | None
) -> None:
    hub.status, hub.storage_status = status, storage_status
    code, reason, message = await (await download()).failure()
    assert (code, reason) == (3, "HUB_UNREACHABLE")
    assert f"answered {status or storage_status}" in message


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 1 MiB."""
    path = tmp_path / "small"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    yield path
    subprocess.run(["umount", str(path)], check=True)


async def test_a_disk_that_is_too_small(
    download: Download, hub: Hub, small_disk: Path, story: bytes
) -> None:
    code, reason, message = await (await download(HF_HOME=str(small_disk))).failure()
    assert (code, reason) == (3, "DISK_FULL")
    assert f"{len(story):,} bytes are to come" in message
    assert hub.sent() == []


async def test_a_disk_that_becomes_full(
    download: Download, hub: Hub, small_disk: Path, story: bytes
) -> None:
    hub.hold_after = 500_000
    hub.add(REPO, FILE, story[:800_000])
    worker = await download(HF_HOME=str(small_disk))
    await until_held(small_disk, 500_000)
    (small_disk / "other").write_bytes(bytes(450_000))
    hub.release()
    code, reason, message = await worker.failure()
    assert (code, reason) == (3, "DISK_FULL")
    assert str(small_disk) in message
