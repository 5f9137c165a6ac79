"""Messages of gRPC that are spoiled, for each method of each service."""

from __future__ import annotations

import asyncio
import random
from functools import cache
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_status import rpc_status

from inference_service.v1 import errors_pb2
from inference_service.v1 import model_service_pb2 as pb
from tests.attack.conftest import Attacked
from tests.attack.target import ATTACKED, Target

pytestmark = pytest.mark.attack

REASONS = {
    name.removeprefix("ERROR_REASON_") for name in errors_pb2.ErrorReason.DESCRIPTOR.values_by_name
}
REASONS -= {"INTERNAL", "UNSPECIFIED"}

_LIMIT = 2.0  # seconds of a call, after which the caller leaves
_OF_LIBRARIES = (  # what a library answers without our reason, and rightly
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNIMPLEMENTED,
)


@cache
def messages() -> list[tuple[str, bytes]]:
    """Return good messages, each with the path of its method."""
    texts = {"model_id": ATTACKED, "prompt": "Once", "max_new_tokens": 4, "stop": ["x", "yy"]}
    good = {
        "GetInfo": pb.GetInfoRequest(),
        "ListModels": pb.ListModelsRequest(),
        "GetModel": pb.GetModelRequest(model_id=ATTACKED),
        "StartModel": pb.StartModelRequest(model_id=ATTACKED),
        "StopModel": pb.StopModelRequest(model_id=ATTACKED),
        "WatchModels": pb.WatchModelsRequest(),
        "ReloadCatalog": pb.ReloadCatalogRequest(),
        "StreamLogs": pb.StreamLogsRequest(model_id=ATTACKED, follow=True),
        "Generate": pb.GenerateRequest(**texts, temperature=0.7, top_k=4, seed=7),  # type: ignore[arg-type]
        "GenerateStream": pb.GenerateStreamRequest(**texts, status_events=True),  # type: ignore[arg-type]
        "Forward": pb.ForwardRequest(
            model_id=ATTACKED, path="/v1/completions", body=b'{"model": "attacked", "prompt": "x"}'
        ),
    }
    found = [
        (f"/inference_service.v1.ModelService/{name}", message.SerializeToString())
        for name, message in good.items()
    ]
    check = health_pb2.HealthCheckRequest(service=ATTACKED).SerializeToString()
    look = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
    found += [(f"/grpc.health.v1.Health/{name}", check) for name in ("Check", "Watch")]
    found += [
        (f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo", look)
        for version in ("v1", "v1alpha")
    ]
    return found


async def test_spoiled_messages(attack: Attacked) -> None:
    await attack("spoiled messages", _spoil, workers=16)


async def _spoil(target: Target, dice: random.Random) -> None:
    """Send fifty spoiled messages on one channel."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(target.command.target, options=options) as channel:
        for _ in range(50):
            path, good = dice.choice(messages())
            data = spoiled(dice, good)
            target.row.tried[path] += 1
            try:
                await _send(channel, path, data)
            except grpc.aio.AioRpcError as error:
                if fault := unexplained(error):
                    target.found(f"{path} {data[:80]!r}: {fault}")


async def _send(channel: Any, path: str, data: bytes) -> None:
    if path.endswith("ServerReflectionInfo"):
        call = channel.stream_stream(path)(iter([data]), timeout=_LIMIT)
    else:
        call = channel.unary_stream(path)(data, timeout=_LIMIT)
    try:
        async with asyncio.timeout(0.5):
            async for _ in call:
                pass
    except TimeoutError:
        call.cancel()


def spoiled(dice: random.Random, data: bytes) -> bytes:
    """Return a message with a few changes."""
    changed = bytearray(data)
    for _ in range(dice.randrange(1, 4)):
        at = dice.randrange(len(changed) + 1)
        match dice.randrange(7):
            case 0:
                changed[at : at + 1] = dice.randbytes(1)
            case 1:
                del changed[at : at + dice.randrange(1, 5)]
            case 2:
                changed[at:at] = dice.randbytes(dice.randrange(1, 9))
            case 3:
                changed[at:at] = dice.choice([b"\xff" * 9 + b"\x01", b"\x80" * 12, b"\x08\x00"])
            case 4:
                changed += data
            case 5:
                tag = dice.randrange(1, 200) << 3 | dice.randrange(8)
                changed[at:at] = bytes([tag & 0x7F | 0x80, tag >> 7]) + dice.randbytes(4)
            case 6:
                changed += b"\x12\x90\x4e" + dice.randbytes(10_000)  # the field 2, of 10,000 bytes
    return bytes(changed)


def unexplained(error: grpc.aio.AioRpcError) -> str:
    """Return what is wrong with an error; nothing, if it has a reason of the contract."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    if status is None:
        good = error.code() in _OF_LIBRARIES
        return "" if good else f"{error.code().name} without details: {error.details()}"
    infos = [d for d in status.details if d.Is(error_details_pb2.ErrorInfo.DESCRIPTOR)]
    info = error_details_pb2.ErrorInfo()
    if len(infos) != 1 or not infos[0].Unpack(info):
        return f"{len(infos)} ErrorInfos"
    return "" if info.reason in REASONS else f"the reason {info.reason}: {status.message}"
