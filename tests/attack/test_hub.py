"""A hub that lies in each answer, in another way each time."""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc
import pytest
from aiohttp import web

from inference_service.v1 import model_service_pb2 as pb
from inference_service.v1 import model_service_pb2_grpc as pb_grpc
from tests.attack.conftest import SEED, Attacked
from tests.attack.target import Target
from tests.attack.test_messages import unexplained

pytestmark = pytest.mark.attack

_GOOD = {"ETag": f'"{"a" * 64}"', "X-Repo-Commit": "0" * 40, "X-Linked-Size": "1000"}
_LIES = [
    *("", "../../../../x.pth", "/tmp/x.pth", "..", "%2e%2e", "-1", "1" * 5000, "nan", "a" * 60_000),
    *("file:///etc/passwd", "http://[", "http://127.0.0.1:1/", "/again", "\x7f"),
]
_HEADERS = [*_GOOD, "X-Linked-Etag", "Location", "Content-Length", "Content-Encoding", "Link"]


@asynccontextmanager
async def lying(dice: random.Random) -> AsyncGenerator[str]:
    """Serve a hub, and give its URL."""

    async def answer(request: web.Request) -> web.StreamResponse:
        headers = dict(_GOOD)
        for _ in range(dice.randrange(3)):
            headers[dice.choice(_HEADERS)] = dice.choice(_LIES)
        status = dice.choice([200, 200, 200, 200, 206, 302, 307, 401, 404, 416, 429, 500])
        body = dice.choice([b"", b"{}", b"GGUF" + bytes(996), b"[" * 10_000, dice.randbytes(1000)])
        if dice.random() < 0.1 and request.method == "GET":
            headers.pop("Content-Length", None)
            endless = web.StreamResponse(status=status, headers=headers)
            await endless.prepare(request)
            with suppress(ConnectionResetError):
                for _ in range(1000):
                    await endless.write(bytes(1 << 16))
            return endless
        return web.Response(status=status, headers=headers, body=body)

    application = web.Application()
    application.router.add_route("*", "/{anything:.*}", answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield "http://127.0.0.1:{1}".format(*runner.addresses[0])
    finally:
        await runner.cleanup()


async def test_a_hub_that_lies(
    attack: Attacked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each start is of another model, for a failed start backs off."""
    entries = "".join(
        f'[[models]]\nid = "m{number}"\nhf_name = "org/m{number}"\ncontext_length = 512\n'
        f'[models.llamacpp]\nmemory = "64MiB"\n'
        f'weights = {{ repo = "org/m{number}", file = "x/y.gguf" }}\n'
        for number in range(2000)
    )
    numbers = itertools.count()
    home = tmp_path / "hf"

    async def start(target: Target, _: random.Random) -> None:
        target.row.tried["start"] += 1
        request = pb.StartModelRequest(model_id=f"m{next(numbers)}")
        async with grpc.aio.insecure_channel(target.command.target) as channel:
            stub: pb_grpc.ModelServiceAsyncStub = pb_grpc.ModelServiceStub(channel)
            try:
                await stub.StartModel(request)
            except grpc.aio.AioRpcError as error:
                if fault := unexplained(error):
                    target.found(fault)
            else:
                target.found("a model of nothing has started")
        for path in home.rglob("*"):
            if not path.is_dir() and path.relative_to(home).parts[0] != "hub":
                target.found(f"the hub has written {path}")
        for path in tmp_path.iterdir():
            if path.name not in {"hf", "catalog.toml", "service.log", "state"}:
                target.found(f"the hub has written {path}")

    async with lying(random.Random(SEED)) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        monkeypatch.setenv("HF_HOME", str(home))
        await attack("a hub that lies", start, workers=3, more=entries)
