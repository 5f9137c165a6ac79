"""Quiet streams: the head and a comment come at once, and comments go on."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest

from inference_service.v1 import model_service_pb2 as pb
from tests.field.event_source import EventSource, Refused
from tests.service import Serving, free_ports, serving
from tests.waiting import PROMPTLY, SLOWLY, within


@pytest.fixture
async def service() -> AsyncGenerator[Serving]:
    async with serving(ports=free_ports(4)) as running:
        yield running


@asynccontextmanager
async def source(service: Serving, path: str) -> AsyncIterator[EventSource]:
    assert service.service.rest_url is not None
    source = EventSource(service.service.rest_url, path)
    try:
        yield source
    finally:
        source.close()


async def revision(service: Serving) -> int:
    """Return the revision up to which a snapshot goes."""
    changes = service.stub.WatchModels(pb.WatchModelsRequest())
    async for change in changes:
        if change.HasField("snapshot_done"):
            changes.cancel()
            return change.revision
    raise AssertionError("the snapshot has no end")


async def begin(source: EventSource) -> bytes:
    """Connect, and return the first bytes of the body."""
    async with within(PROMPTLY, "no head and nothing of a body came"):
        await source.connect()
        async with aclosing(source.body()) as body:
            return await anext(body)


async def test_a_resumed_watch_of_idle_models_begins_before_any_change(service: Serving) -> None:
    """A proxy gives up on a stream without a head (flask-sse#3, spring-cloud-gateway#1550)."""
    path = f"/models:watch?after_revision={await revision(service)}"
    async with source(service, path) as watch:
        assert await begin(watch) == b": keep-alive\n\n"


async def test_a_browser_that_comes_back_to_idle_models_is_answered(service: Serving) -> None:
    async with source(service, "/models:watch") as watch:
        watch.last_id = str(await revision(service))
        assert await begin(watch) == b": keep-alive\n\n"


@pytest.mark.parametrize("follow", ["follow=true&tail_line_count=0", "follow=true"])
async def test_the_log_of_a_quiet_engine_begins_before_its_next_line(
    service: Serving, follow: str
) -> None:
    async with within(SLOWLY, "the model did not start"):
        await service.stub.StartModel(pb.StartModelRequest(model_id="story-mini"))
    async with source(service, f"/models/story-mini/logs?{follow}") as log:
        first = await begin(log)
        assert first == b": keep-alive\n\n" if "=0" in follow else first.startswith(b"data: ")


async def test_comments_keep_a_stream_alive_that_has_no_event_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REST_BRIDGE_KEEP_ALIVE_SECONDS", "0.1")
    async with serving(ports=free_ports(4)) as service:
        path = f"/models:watch?after_revision={await revision(service)}"
        async with source(service, path) as watch, within(PROMPTLY, "no three comments came"):
            await watch.connect()
            async with aclosing(watch.body()) as body:
                assert [await anext(body) for _ in range(3)] == [b": keep-alive\n\n"] * 3


async def test_a_comment_behind_an_id_makes_no_event_of_an_empty_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some clients make one of each empty line, once there was an id (llmgateway#2334)."""
    monkeypatch.setenv("REST_BRIDGE_KEEP_ALIVE_SECONDS", "0.05")
    received = b""
    async with (
        serving(ports=free_ports(4)) as service,
        source(service, "/models:watch") as watch,
        within(PROMPTLY, "no comment came"),
    ):
        await watch.connect()
        async with aclosing(watch.body()) as body:
            while received.count(b": keep-alive") < 3:
                received += await anext(body)

    events, _, comments = received.partition(b": keep-alive")
    assert events.endswith(b"\n\n")
    assert all(b"\ndata: " in block for block in events[:-2].split(b"\n\n"))
    assert set(comments.split(b"\n")[1:-1]) == {b": keep-alive"}


@pytest.mark.parametrize(
    "path",
    [
        "/models:watch?model_id=nobody",
        "/models:watch?model_id=nobody&after_revision=9000000000000000",
        "/models/nobody/logs?follow=true&tail_line_count=0",
    ],
)
async def test_an_unknown_model_is_a_404_and_no_stream(service: Serving, path: str) -> None:
    async with source(service, path) as stream, within(PROMPTLY, "no answer came"):
        with pytest.raises(Refused, match=r"HTTP/1\.1 404 (?s:.)*MODEL_NOT_FOUND"):
            await stream.connect()


async def test_a_quiet_call_of_grpc_has_its_headers_at_once(service: Serving) -> None:
    after = await revision(service)
    async with within(SLOWLY, "the model did not start"):
        await service.stub.StartModel(pb.StartModelRequest(model_id="story-mini"))
    watch = service.stub.WatchModels(pb.WatchModelsRequest(model_id="gpt-2", after_revision=after))
    request = pb.StreamLogsRequest(model_id="story-mini", tail_line_count=0, follow=True)
    log = service.stub.StreamLogs(request)
    async with within(PROMPTLY, "a quiet call had no headers"):
        for call in (watch, log):
            assert dict(await call.initial_metadata())["x-accepted"] == "true"
            call.cancel()
