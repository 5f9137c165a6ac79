"""Clients that do not read what they have asked for.

grpc/grpc#18739 and grpc-dotnet#1422: a write to such a client waits without end, and its handler
with all that it holds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from inference_service.v1 import model_service_pb2 as pb
from tests.field.catalogs import UNREACHABLE
from tests.field.hostile import SERVICE, WATCH, Http2, http2
from tests.service import Serving, free_ports, serving
from tests.waiting import SLOWLY, until, within

TEXT = pb.GenerateStreamRequest(
    model_id="story-mini", prompt="Once upon a time", max_new_tokens=120, temperature=0
)
STREAM = f"{SERVICE}GenerateStream"
MINI = Path(__file__).parents[2] / "inference_service" / "story_mini"


async def ask(service: Serving, model_id: str = "story-mini") -> float:
    """Ask for a short text over REST, and return the seconds that it took."""
    begin = time.monotonic()
    body = {"model_id": model_id, "prompt": "Hi", "max_new_tokens": 2}
    async with within(SLOWLY, "a caller who reads was not served"):
        answer = await service.http.post("/generate", json=body)
    assert answer.status_code == 200, answer.text
    return time.monotonic() - begin


@pytest.fixture
async def impatient() -> AsyncGenerator[Serving]:
    """Run a service that waits a second for who does not read."""
    async with serving(ports=free_ports(8), write_timeout=1) as running:
        yield running


def texts(client: Http2, stream: int) -> tuple[str, list[str]]:
    """Return the text of a stream, and the kinds of its messages."""
    messages = [pb.GenerateStreamResponse.FromString(m) for m in client.messages(stream)]
    kinds = [str(message.WhichOneof("event")) for message in messages]
    return "".join(message.chunk.text for message in messages), kinds


@pytest.mark.parametrize("status_events", [False, True])
async def test_streams_that_nobody_reads_hold_no_slot(
    service: Serving, status_events: bool
) -> None:
    await ask(service)
    unread = pb.GenerateStreamRequest()
    unread.CopyFrom(TEXT)
    unread.status_events = status_events
    async with http2(service.service.target) as client:
        for _ in range(40):
            client.call(STREAM, unread)
        took = [await ask(service) for _ in range(5)]

    assert max(took) < 8  # a second or two until the first are found; once this was for ever


async def test_who_reads_late_gets_the_whole_text(service: Serving) -> None:
    """The text has waited in memory, so that the slot could go to others."""
    whole = await service.stub.Generate(
        pb.GenerateRequest(
            model_id=TEXT.model_id,
            prompt=TEXT.prompt,
            max_new_tokens=TEXT.max_new_tokens,
            temperature=0,
            return_full_text=False,
        )
    )
    async with http2(service.service.target, window=30) as client:
        streams = [client.call(STREAM, TEXT) for _ in range(12)]
        await ask(service)
        for stream in streams:
            client.open_window(stream, 1 << 16)
        ended = "not every stream came to its end"
        await until(lambda: len(client.trailers) == len(streams), ended, SLOWLY)
        for stream in streams:
            text, kinds = texts(client, stream)
            assert text == whole.generated_text
            assert kinds[-1] == "summary"
            assert client.trailers[stream]["grpc-status"] == "0"


async def test_a_stream_that_nobody_reads_ends_with_a_reason(impatient: Serving) -> None:
    await ask(impatient)
    async with http2(impatient.service.target) as client:
        stream = client.call(STREAM, TEXT)
        await active(impatient, 1)
        await active(impatient, 0)
        client.open_window(stream, 1 << 16)  # its reader comes back
        await until(lambda: stream in client.trailers, "no status came")
        _, kinds = texts(client, stream)

        assert client.reason(stream) == "STREAM_NOT_READ"
        assert kinds in (["chunk"], ["chunk", "chunk"])


@pytest.mark.parametrize(
    ("path", "request_"),
    [
        ("WatchModels", pb.WatchModelsRequest()),
        ("StreamLogs", pb.StreamLogsRequest(model_id="story-mini", follow=True)),
    ],
)
async def test_watches_and_logs_that_nobody_reads_end_too(
    impatient: Serving, path: str, request_: Any
) -> None:
    await ask(impatient)
    async with http2(impatient.service.target) as client:
        stream = client.call(f"{SERVICE}{path}", request_)
        await asyncio.sleep(4)
        client.open_window(stream, 1 << 20)
        await until(lambda: stream in client.trailers, "no status came")
        assert client.reason(stream) == "STREAM_NOT_READ"


async def test_an_unread_status_keeps_no_model_from_being_idle_or_evicted(tmp_path: Path) -> None:
    catalog = tmp_path / "catalog.toml"
    weights = next(MINI.glob("*.gguf"))
    catalog.write_text(
        "".join(
            f'[[models]]\nid = "{name}"\nhf_name = "x"\ncontext_length = 512\nidle_timeout = 1\n'
            f'[models.llamacpp]\nmemory = "256MiB"\nweights = {{ path = "{weights}" }}\n'
            for name in ("mini-a", "mini-b")
        )
    )
    settings: dict[str, Any] = {"catalog": catalog, "memory": "300MiB", "min_residency": 0}
    async with serving(ports=free_ports(8), **settings) as service:
        unread = pb.GenerateStreamRequest(
            model_id="mini-a", prompt="Once", max_new_tokens=3, status_events=True
        )
        await ask(service, "mini-a")
        async with http2(service.service.target) as client:
            client.call(STREAM, unread)
            await asyncio.sleep(0.5)
            assert await ask(service, "mini-b") < 30


async def test_a_health_watcher_who_does_not_read_silences_nobody(tmp_path: Path) -> None:
    catalog = tmp_path / "models.toml"
    catalog.write_text(UNREACHABLE)
    async with (
        serving(ports=free_ports(8), catalog=catalog) as service,
        http2(service.service.target) as client,
    ):
        for name in ("", "broken", "no such model"):
            client.call(WATCH, health_pb2.HealthCheckRequest(service=name))
        await asyncio.sleep(0.2)
        health: Any = health_pb2_grpc.HealthStub(service.channel)
        other = aiter(health.Watch(health_pb2.HealthCheckRequest(service="broken")))
        async with within(SLOWLY, "another watcher got no status"):
            assert (await anext(other)).status == health_pb2.HealthCheckResponse.SERVING
            with suppress(grpc.aio.AioRpcError):
                await service.stub.StartModel(pb.StartModelRequest(model_id="broken"))
            assert (await anext(other)).status == health_pb2.HealthCheckResponse.NOT_SERVING
        answer = await health.Check(health_pb2.HealthCheckRequest(service="story-mini"))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        leaving = asyncio.get_running_loop().time()
        # The service ends here, although nobody has read.
    assert asyncio.get_running_loop().time() - leaving < 20


async def active(service: Serving, count: int) -> None:
    """Return when so many requests have a slot of the model."""

    async def now() -> int:
        answer = await service.stub.GetModel(pb.GetModelRequest(model_id="story-mini"))
        return answer.model.active_request_count

    async with within(SLOWLY, f"the model did not come to have {count} requests"):
        while await now() != count:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
