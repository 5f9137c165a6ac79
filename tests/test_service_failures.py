"""Exactly one ErrorInfo, however a call fails: what gRPC ends by itself, too."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from inference_service.v1 import model_service_pb2 as pb
from tests.field.hostile import SERVICE as PATH
from tests.field.hostile import http2
from tests.service import Failure, Serving, failure, serving
from tests.waiting import PROMPTLY, SLOWLY, within

GARBAGE = b"\xff\xff\xff"


async def failed(call: Any) -> Failure:
    """Return the failure of a call, or of a stream at its first message."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        async with within(SLOWLY, "the call did not end"):
            await (call if hasattr(call, "__await__") else anext(aiter(call)))
    return failure(error.value)


def raw(service: Serving, path: str, kind: str = "unary_unary") -> Any:
    return getattr(service.channel, kind)(path)


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream"])
@pytest.mark.parametrize("path", [f"{PATH}Generrate", "/no.such.Service/Method", "/nonsense"])
async def test_a_method_that_there_is_not(service: Serving, path: str, kind: str) -> None:
    shown = await failed(raw(service, path, kind)(b""))

    assert (shown.code, shown.reason) == (grpc.StatusCode.UNIMPLEMENTED, "METHOD_NOT_OFFERED")
    assert shown.metadata == {"path": path}


async def test_a_method_that_there_is_not_takes_a_stream_of_requests(service: Serving) -> None:
    call = raw(service, "/no.such.Service/Method", "stream_stream")([])

    assert (await failed(call)).reason == "METHOD_NOT_OFFERED"


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("unary_unary", f"{PATH}GetModel"),
        ("unary_stream", f"{PATH}WatchModels"),
        ("unary_unary", "/grpc.health.v1.Health/Check"),
        ("unary_unary", "/grpc.health.v1.Health/List"),
        ("unary_stream", "/grpc.health.v1.Health/Watch"),
    ],
)
async def test_bytes_that_are_no_message(
    service: Serving, kind: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    shown = await failed(raw(service, path, kind)(GARBAGE))

    assert (shown.code, shown.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_PARAMETER")
    assert not caplog.records


@pytest.mark.parametrize("name", ["GetModel", "Generate", "StartModel"])
async def test_a_message_that_is_too_large(service: Serving, name: str) -> None:
    shown = await failed(raw(service, f"{PATH}{name}")(b"\x0a" + bytes(5 << 20)))

    assert (shown.code, shown.reason) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "REQUEST_TOO_LARGE",
    )


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (f"{PATH}WatchModels", pb.WatchModelsRequest(model_id="gpt-2")),
        ("/grpc.health.v1.Health/Watch", health_pb2.HealthCheckRequest()),
    ],
)
async def test_a_deadline_that_passes(path: str, message: Message) -> None:
    """The client has no clock of its own, so that the status is that of the service."""
    async with serving() as service, http2(service.service.target, 1 << 20) as client:
        stream = client.call(path, message, [("grpc-timeout", "2S")])
        async with within(PROMPTLY, "the call did not end"):
            while stream not in client.trailers:
                client.changed.clear()
                await client.changed.wait()

        assert client.trailers[stream]["grpc-status"] == "4"
        assert client.reason(stream) == "DEADLINE_PASSED"


async def test_a_call_that_ends_before_its_deadline_is_not_ended_by_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving() as service:
        for _ in range(3):
            await service.stub.GetInfo(pb.GetInfoRequest(), timeout=0.3)
        await asyncio.sleep(0.4)

    assert not caplog.records
