"""The wrapper of every method, over the wire."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

import grpc
import pytest

from inference_service import errors
from inference_service.api.listener import SERVICE
from inference_service.api.methods import guarded, handlers
from inference_service.errors import ServiceError
from inference_service.v1 import model_service_pb2 as pb
from inference_service.v1 import model_service_pb2_grpc as pb_grpc
from tests.service import failure
from tests.waiting import PROMPTLY, SLOWLY, within


class Raising(pb_grpc.ModelServiceServicer):
    """A servicer that raises `error` in each call, in a stream after one chunk.

    With `cuts`, the write of the chunk is cut. A log has no end.
    """

    error: BaseException = ServiceError("no")
    cuts = False

    def __init__(self) -> None:
        self.left = asyncio.Event()
        self.written = 0

    async def StreamLogs(  # type: ignore[override]
        self, request: pb.StreamLogsRequest, context: Any
    ) -> None:
        try:
            while True:
                await context.write(pb.StreamLogsResponse(line="x" * 2**16))
                self.written += 1
        finally:
            self.left.set()

    async def GetModel(self, request: pb.GetModelRequest, context: Any) -> pb.GetModelResponse:
        raise self.error

    async def GenerateStream(  # type: ignore[override]
        self, request: pb.GenerateStreamRequest, context: Any
    ) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(0 if self.cuts else None):
                await context.write(pb.GenerateStreamResponse(chunk=pb.GenerateChunk(text="a")))
        raise self.error


@pytest.fixture
async def service() -> AsyncGenerator[tuple[Raising, grpc.aio.Channel]]:
    server = grpc.aio.server()
    servicer = Raising()  # type: ignore[abstract]  # the calls that the tests make
    methods = guarded(handlers(pb_grpc.add_ModelServiceServicer_to_server, servicer))
    generic = grpc.method_handlers_generic_handler(SERVICE, methods)
    server.add_generic_rpc_handlers((generic,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield servicer, channel
    await server.stop(None)


async def test_an_error_ends_a_call_with_its_status(
    service: tuple[Raising, grpc.aio.Channel],
) -> None:
    servicer, channel = service
    servicer.error = errors.NotRunning("tiny")

    with pytest.raises(grpc.aio.AioRpcError) as error:
        await pb_grpc.ModelServiceStub(channel).GetModel(pb.GetModelRequest())

    failed = failure(error.value)
    assert (failed.code, failed.message) == (grpc.StatusCode.NOT_FOUND, "tiny is not running")
    assert (failed.reason, failed.metadata) == ("CONTAINER_NOT_RUNNING", {"model_id": "tiny"})


async def test_an_error_ends_a_stream_after_the_messages_that_were_sent(
    service: tuple[Raising, grpc.aio.Channel],
) -> None:
    servicer, channel = service
    servicer.error = errors.EngineFailed("died")
    servicer.error.metadata["sent_token_count"] = "1"
    stream = pb_grpc.ModelServiceStub(channel).GenerateStream(pb.GenerateStreamRequest())

    events = aiter(stream)
    first = await anext(events)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await anext(events)

    assert first.chunk.text == "a"
    assert failure(error.value).code is grpc.StatusCode.ABORTED


async def test_an_error_ends_a_stream_whose_first_write_was_cut(
    service: tuple[Raising, grpc.aio.Channel],
) -> None:
    servicer, channel = service
    servicer.error, servicer.cuts = errors.ModelStopped("tiny"), True
    stream = pb_grpc.ModelServiceStub(channel).GenerateStream(pb.GenerateStreamRequest())

    with pytest.raises(grpc.aio.AioRpcError) as error:
        async with within(SLOWLY, "the stream did not end"):
            async for _ in stream:
                pass

    assert failure(error.value).reason == "MODEL_STOPPED"


async def test_a_fault_is_internal_and_its_text_is_in_the_log_alone(
    service: tuple[Raising, grpc.aio.Channel], caplog: pytest.LogCaptureFixture
) -> None:
    servicer, channel = service
    servicer.error = KeyError("a secret")

    with caplog.at_level(logging.ERROR), pytest.raises(grpc.aio.AioRpcError) as error:
        await pb_grpc.ModelServiceStub(channel).GetModel(pb.GetModelRequest())

    failed = failure(error.value)
    assert (failed.code, failed.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "secret" not in failed.message
    assert "a secret" in caplog.text


async def test_a_slow_reader_that_leaves_is_no_fault(
    service: tuple[Raising, grpc.aio.Channel], caplog: pytest.LogCaptureFixture
) -> None:
    servicer, channel = service
    stream = pb_grpc.ModelServiceStub(channel).StreamLogs(pb.StreamLogsRequest())
    await stream.read()
    seen = 0
    while seen != servicer.written:  # until the buffers on the way are full
        seen = servicer.written
        await asyncio.sleep(0.1)

    with caplog.at_level(logging.ERROR):
        await channel.close()
        async with within(PROMPTLY, "the handler did not end"):
            await servicer.left.wait()

    assert not caplog.records


async def test_bytes_that_are_no_message_are_the_callers_mistake(
    service: tuple[Raising, grpc.aio.Channel],
) -> None:
    _, channel = service
    get: Any = channel.unary_unary("/inference_service.v1.ModelService/GetModel")
    stream: Any = channel.unary_stream("/inference_service.v1.ModelService/GenerateStream")

    with pytest.raises(grpc.aio.AioRpcError) as unary:
        await get(b"\xff\xff\xff")
    with pytest.raises(grpc.aio.AioRpcError) as streamed:
        await anext(aiter(stream(b"\xff\xff\xff")))

    for error in (unary, streamed):
        assert failure(error.value).reason == "INVALID_PARAMETER"


async def test_a_method_that_does_not_exist_is_unimplemented(
    service: tuple[Raising, grpc.aio.Channel],
) -> None:
    _, channel = service
    call: Any = channel.unary_unary("/inference_service.v1.ModelService/Nonsense")

    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call(b"")

    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("letter", ["x", "é", "🙂", "%", "\n"])
async def test_the_longest_error_fits_into_the_trailers(
    service: tuple[Raising, grpc.aio.Channel], letter: str
) -> None:
    servicer, channel = service
    servicer.error = ServiceError(
        letter * 100_000,
        metadata={"model_id": "m" * 63, "phase": "downloading weights", "exit_code": 1},
        retry_after=60,
        field="prompt",
        log=[letter * 10_000] * 20,
    )

    with pytest.raises(grpc.aio.AioRpcError) as error:
        await pb_grpc.ModelServiceStub(channel).GetModel(pb.GetModelRequest())

    failed = failure(error.value)
    assert (failed.code, failed.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert failed.message.startswith(letter * 100)
    assert len(failed.details) == 4
