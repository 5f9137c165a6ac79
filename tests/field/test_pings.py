"""Pings of clients, and of the service: quiet calls live, and who has vanished is noticed."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any

import grpc
import pytest

from inference_service.v1 import model_service_pb2 as pb
from inference_service.v1 import model_service_pb2_grpc as pb_grpc
from tests.field.hostile import SERVICE, Http2, http2
from tests.service import Serving, serving
from tests.waiting import PROMPTLY, SLOWLY, within

SHORT = 0.2  # seconds


async def ping(client: Http2, count: int) -> None:
    """Ping so many times in the interval of the service, each time once it has answered."""
    for number in range(1, count + 1):
        assert not client.closed.is_set(), client.farewell
        client.ping()
        async with within(PROMPTLY, "a ping had no answer"):
            while client.answered < number:
                client.changed.clear()
                await client.changed.wait()
                assert not client.closed.is_set(), client.farewell
        await asyncio.sleep(SHORT)


async def watch(service: Serving, client: Http2) -> int:
    """Begin a watch that stays quiet, and return the number of its stream."""
    models = service.stub.WatchModels(pb.WatchModelsRequest())
    revision = 0
    async for change in models:
        if change.HasField("snapshot_done"):
            revision = change.revision
            break
    models.cancel()
    return client.call(f"{SERVICE}WatchModels", pb.WatchModelsRequest(after_revision=revision))


@pytest.mark.parametrize("calls", [True, False], ids=["a quiet call", "no call"])
async def test_a_client_may_ping_for_as_long_as_it_likes(calls: bool) -> None:
    async with (
        serving(client_ping_interval=SHORT) as service,
        http2(service.service.target) as client,
    ):
        if calls:
            await watch(service, client)
        await ping(client, 10)

        assert (client.farewell, client.trailers) == (b"", {})


async def test_a_client_that_pings_too_often_is_told_so() -> None:
    async with serving() as service, http2(service.service.target) as client:
        with pytest.raises(AssertionError, match="too_many_pings"):
            await ping(client, 10)


async def test_a_channel_with_keepalive_keeps_a_quiet_watch() -> None:
    options = [
        ("grpc.keepalive_time_ms", 1000),  # the core of gRPC pings no more often
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    async with (
        serving(client_ping_interval=1) as service,
        grpc.aio.insecure_channel(service.service.target, options=options) as channel,
    ):
        request = pb.WatchModelsRequest(model_id="gpt-2")
        watching: Any = pb_grpc.ModelServiceStub(channel).WatchModels(request)
        assert (await watching.read()).HasField("model")
        assert (await watching.read()).HasField("snapshot_done")
        with pytest.raises(TimeoutError):  # and no status: the fourth ping came too soon otherwise
            async with asyncio.timeout(5):
                await watching.read()


async def test_a_peer_that_has_vanished_is_noticed() -> None:
    """The kernel of a machine that is gone answers nothing; here nobody answers the pings."""
    async with serving(ping_interval=SHORT) as service:
        host, port = service.service.target.rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5))
        begun = time.monotonic()
        async with within(SLOWLY, "the connection was not closed"):
            with suppress(ConnectionResetError):
                while await reader.read(1 << 10):
                    pass

        assert SHORT <= time.monotonic() - begun < PROMPTLY
        writer.close()
