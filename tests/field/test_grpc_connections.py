"""Clients of gRPC that connect and say nothing."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress

import grpc
import pytest

from inference_service.api import listener
from inference_service.v1 import model_service_pb2 as pb
from inference_service.v1 import model_service_pb2_grpc as pb_grpc
from tests.service import serving
from tests.waiting import SLOWLY, within

MOST = 8


async def test_idle_connections_take_nothing_from_those_who_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listener, "_affordable", lambda: MOST)
    options = dict(listener.OPTIONS) | {"grpc.server_handshake_timeout_ms": 1000}
    monkeypatch.setattr(listener, "OPTIONS", [*options.items()])
    async with serving() as service, AsyncExitStack() as stack:
        await service.stub.GetInfo(pb.GetInfoRequest())
        host, port = service.service.target.rsplit(":", 1)
        opened = [await asyncio.open_connection(host, int(port)) for _ in range(3 * MOST)]
        for _, writer in opened:
            stack.callback(writer.close)

        # One who is connected, and REST, which has files of its own.
        await service.stub.GetInfo(pb.GetInfoRequest())
        assert (await service.http.get("/models")).status_code == 200

        # A new one, once the idle ones are closed.
        async with within(SLOWLY, "the idle connections were not closed"):
            for reader, _ in opened:
                with suppress(ConnectionResetError):
                    while await reader.read(1 << 10):
                        pass
        apart = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(service.service.target, options=apart) as channel:
            await pb_grpc.ModelServiceStub(channel).GetInfo(pb.GetInfoRequest(), timeout=SLOWLY)
