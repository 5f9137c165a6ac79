"""Quiet streams behind nginx with its defaults, and a short patience instead of its 60 s."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from inference_service.v1 import model_service_pb2 as pb
from tests.field import catalogs
from tests.field.event_source import EventSource
from tests.needs import require_program
from tests.service import Serving, free, free_ports, serving
from tests.waiting import PROMPTLY, until, within

CONFIGURATION = """
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log stderr;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://{target};
      proxy_read_timeout 2s;
    }}
  }}
}}
"""


@asynccontextmanager
async def nginx(folder: Path, url: str) -> AsyncGenerator[str]:
    """Run nginx in front of `url`; yield its own URL."""
    program = require_program("nginx")
    port = int(free_ports(1).partition("-")[0])
    path = folder / "nginx.conf"
    path.write_text(CONFIGURATION.format(folder=folder, port=port, target=urlsplit(url).netloc))
    words = (program, "-p", str(folder), "-c", str(path))
    process = await asyncio.create_subprocess_exec(*words, stderr=asyncio.subprocess.DEVNULL)
    try:
        await until(lambda: not free(port), "nginx does not listen")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


@asynccontextmanager
async def proxied(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[tuple[Serving, str]]:
    monkeypatch.setenv("REST_BRIDGE_KEEP_ALIVE_SECONDS", "0.5")
    catalogs.write(folder / "models.toml", one="100MB")
    async with serving(ports=free_ports(4), catalog=folder / "models.toml") as service:
        assert service.service.rest_url is not None
        async with nginx(folder, service.service.rest_url) as url:
            yield service, url


async def test_a_watch_of_idle_models_outlives_the_patience_of_nginx(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed watch has no event before the next change (flask-sse#3, botbot-web#2)."""
    async with proxied(tmp_path, monkeypatch) as (service, url):
        call = service.stub.WatchModels(pb.WatchModelsRequest(model_id="one"))
        revision = [await anext(aiter(call)) for _ in range(2)][-1].revision
        call.cancel()
        watch = EventSource(url, f"/models:watch?after_revision={revision}")
        async with within(PROMPTLY, "nginx had no head"):
            await watch.connect()
        async with aclosing(watch.events()) as events:
            coming = asyncio.ensure_future(anext(events))
            await asyncio.sleep(3)
            assert not coming.done(), "nginx has ended the stream"
            catalogs.write(tmp_path / "models.toml", one="200MB")
            await service.service.reload()
            async with within(PROMPTLY, "nginx held the event back"):
                event = await coming
        watch.close()

    assert event.json["memory_bytes"] == "200000000"
    assert len(watch.comments) >= 5


async def test_the_log_of_a_quiet_engine_outlives_the_patience_of_nginx(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with proxied(tmp_path, monkeypatch) as (service, url):
        await service.stub.StartModel(pb.StartModelRequest(model_id="story-mini"))
        log = EventSource(url, "/models/story-mini/logs?follow=true&tail_line_count=0")
        async with within(PROMPTLY, "nginx had no head"):
            await log.connect()
        async with aclosing(log.events()) as events:
            coming = asyncio.ensure_future(anext(events))
            await asyncio.sleep(3)
            assert not coming.done(), "nginx has ended the stream"
            coming.cancel()
            await asyncio.wait([coming])
        log.close()

    assert len(log.comments) >= 5
