"""A hub that answers as it likes: it writes no file but the model's own, and stops no start."""

from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from .conftest import Start, Worker

COMMIT, DIGEST = "0" * 40, "a" * 64
REPO, FILE = "maker/story-GGUF", "q8/story.gguf"
PAYLOAD = b"import os\n"


@dataclass
class Script:
    """The answers of the hub: headers of HEAD, then status, headers and body of GET."""

    url: str = ""
    about: dict[str, str] = field(
        default_factory=lambda: {
            "ETag": f'"{DIGEST}"',
            "X-Repo-Commit": COMMIT,
            "X-Linked-Size": str(len(PAYLOAD)),
        }
    )
    about_status: int = 200
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = PAYLOAD
    endless: str = ""  # a part of the paths whose body has no end
    gets: int = 0


@pytest.fixture
async def script() -> AsyncIterator[Script]:
    """Serve a script over loopback."""
    script = Script()

    async def answer(request: web.Request) -> web.StreamResponse:
        if script.endless and script.endless in request.path and request.method == "GET":
            response = web.StreamResponse(status=script.status, headers=script.headers)
            await response.prepare(request)
            with suppress(ConnectionResetError):
                while True:
                    await response.write(bytes(1 << 20))
            return response
        if request.method == "HEAD":
            return web.Response(status=script.about_status, headers=script.about)
        script.gets += "/resolve/" in request.path  # the library may ask for more
        return web.Response(status=script.status, headers=script.headers, body=script.body)

    application = web.Application()
    application.router.add_route("*", "/{anything:.*}", answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    script.url = "http://127.0.0.1:{1}".format(*runner.addresses[0])
    yield script
    await runner.cleanup()


async def ask(start: Start, script: Script, home: Path, url: str = "") -> Worker:
    return await start(
        LLAMACPP_REPO=REPO, LLAMACPP_FILE=FILE, HF_HOME=str(home), HF_ENDPOINT=url or script.url
    )


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("ETag", "../../../../x.pth"),
        ("ETag", '"../../../../x.pth"'),
        ("ETag", "W/../../../../x.pth"),
        ("ETag", "/tmp/x.pth"),
        ("ETag", ".."),
        ("ETag", '""'),
        ("ETag", f"{DIGEST}/../x"),
        ("ETag", f"{DIGEST}.incomplete"),
        ("ETag", "d41d8cd98f00b204e9800998ecf8427e"),  # an MD5, as plain storages have
        ("ETag", '"65f1a2b3-1f4"'),  # as nginx makes it
        ("X-Linked-Etag", "../../../../x.pth"),
        ("X-Repo-Commit", "../../../../planted"),
        ("X-Repo-Commit", "main"),
        ("X-Repo-Commit", ""),
        ("X-Repo-Commit", "０" * 40),  # digits to Python
        ("X-Linked-Size", "-1"),
        ("X-Linked-Size", "1" * 5000),  # more than Python makes a number of
        ("X-Linked-Size", "ten"),
    ],
)
async def test_an_answer_that_no_hub_gives(
    start: Start, script: Script, tmp_path: Path, header: str, value: str
) -> None:
    script.about[header] = value
    code, reason, message = await (await ask(start, script, tmp_path / "hf")).failure()
    assert (code, reason) == (3, "HUB_UNREACHABLE")
    assert "does not answer as a hub does" in message
    assert len(message) < 400
    assert script.gets == 0
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    "etag", [DIGEST, f'"{DIGEST}"', f'W/"{DIGEST}"', DIGEST.upper(), f'"{"b" * 40}"']
)
async def test_spellings_of_a_digest(
    start: Start, script: Script, tmp_path: Path, etag: str
) -> None:
    script.about["ETag"] = etag
    code, reason, _ = await (await ask(start, script, tmp_path / "hf")).failure()
    assert (code, reason) in [(3, "CHECKSUM_MISMATCH"), (4, "MODEL_UNUSABLE")]
    assert script.gets == 1


async def test_a_size_that_no_disk_has(start: Start, script: Script, tmp_path: Path) -> None:
    script.about["X-Linked-Size"] = str(10**30)
    code, reason, _ = await (await ask(start, script, tmp_path / "hf")).failure()
    assert (code, reason) == (3, "DISK_FULL")
    assert script.gets == 0


@pytest.mark.parametrize("body", [b"", PAYLOAD * 2, PAYLOAD[:4]])
async def test_another_length_than_the_announced_one(
    start: Start, script: Script, tmp_path: Path, body: bytes
) -> None:
    script.body = body
    code, reason, _ = await (await ask(start, script, tmp_path / "hf")).failure()
    assert code == 3
    assert reason in ("HUB_UNREACHABLE", "CHECKSUM_MISMATCH")
    assert script.gets <= 6
    assert not any(len(path.read_bytes()) > len(PAYLOAD) for path in blobs(tmp_path))


@pytest.mark.parametrize(
    "location",
    ["file:///etc/passwd", "gopher://127.0.0.1/", "http://[", "http://a:b@127.0.0.1:1/x", "/again"],
)
@pytest.mark.parametrize("method", ["HEAD", "GET"])
async def test_a_redirect_to_somewhere_else(
    start: Start, script: Script, tmp_path: Path, location: str, method: str
) -> None:
    if method == "HEAD":
        script.about_status, script.about["Location"] = 302, location
    script.status, script.headers["Location"] = 302, location
    worker = await ask(start, script, tmp_path / "hf")
    code, reason, message = await worker.failure()
    assert (code, reason) == (3, "HUB_UNREACHABLE"), message
    assert "root:" not in message
    assert [path for path in blobs(tmp_path) if path.stat().st_size] == []


@pytest.mark.parametrize("status", [200, 302, 404])
async def test_a_body_without_end(
    start: Start, script: Script, tmp_path: Path, status: int
) -> None:
    script.endless, script.status = "/", status
    if status == 302:
        script.headers["Location"] = "/again"
    worker = await ask(start, script, tmp_path / "hf")
    code, reason, message = await worker.failure()
    assert (code, reason) == (3, "HUB_UNREACHABLE"), message
    assert all(path.stat().st_size <= len(PAYLOAD) for path in blobs(tmp_path))


@pytest.mark.parametrize("header", ["ETag", "Location"])
async def test_the_password_of_the_hub_is_shown_to_nobody(
    start: Start, script: Script, tmp_path: Path, header: str
) -> None:
    if header == "Location":
        script.about_status = script.status = 302
        script.headers[header] = "file:///etc/passwd"
    script.about[header] = "file:///etc/passwd"
    url = script.url.replace("://", "://me:my-password@")
    worker = await ask(start, script, tmp_path / "hf", url)
    code, _, message = await worker.failure()
    assert code == 3
    assert "http://***@127.0.0.1" in message
    assert "my-password" not in message + await worker.errors()


def blobs(folder: Path) -> list[Path]:
    return [*folder.glob("hf/hub/models--*/blobs/*")]
