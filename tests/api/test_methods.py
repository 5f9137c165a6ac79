"""The gate of every method, over the wire."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from inference_service import errors
from inference_service.api.health import Health
from inference_service.api.listener import SERVICE, services
from inference_service.api.methods import Handlers, accept, gated
from inference_service.api.reflection import Reflection
from inference_service.api.writer import Writer
from inference_service.errors import ServiceError
from inference_service.printable import printable
from inference_service.v1 import model_service_pb2 as pb
from inference_service.v1 import model_service_pb2_grpc as pb_grpc
from tests.service import failure
from tests.waiting import PROMPTLY, SLOWLY, within


class Raising(pb_grpc.ModelServiceServicer):
    """A servicer that raises `error` in each call, in a stream after one chunk.

    The write of what `cuts` names is cut: of the headers, or of the chunk. A log has no end.
    """

    error: BaseException = ServiceError("no")
    cuts = ""

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
        writer = Writer(context)
        if self.cuts == "chunk":
            await writer.open()
        with suppress(TimeoutError):
            async with asyncio.timeout(0 if self.cuts else None):
                await writer.write(pb.GenerateStreamResponse(chunk=pb.GenerateChunk(text="a")))
        raise self.error


@asynccontextmanager
async def serving(
    methods: dict[str, Handlers], options: list[tuple[str, Any]] | None = None
) -> AsyncGenerator[grpc.aio.Channel]:
    """Serve methods, and give a channel to them."""
    server = grpc.aio.server()
    for name, handlers in methods.items():
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        yield channel
    await server.stop(None)


@pytest.fixture
async def service() -> AsyncGenerator[tuple[Raising, grpc.aio.Channel]]:
    servicer = Raising()  # type: ignore[abstract]  # the calls that the tests make
    methods = gated(SERVICE, pb_grpc.add_ModelServiceServicer_to_server, servicer)
    async with serving({SERVICE: methods}) as channel:
        yield servicer, channel


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


@pytest.mark.parametrize("cuts", ["headers", "chunk"])
async def test_an_error_ends_a_stream_whose_first_write_was_cut(
    service: tuple[Raising, grpc.aio.Channel], cuts: str
) -> None:
    servicer, channel = service
    servicer.error, servicer.cuts = errors.ModelStopped("tiny"), cuts
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
    assert failed.message.startswith(printable(letter) * 100)
    assert len(failed.details) == 4


class Refusing(pb_grpc.ModelServiceServicer):
    """A servicer whose streams raise UNAVAILABLE twice, before or after they are accepted."""

    def __init__(self, *, accepts: bool) -> None:
        self.calls = 0
        self._accepts = accepts

    async def GenerateStream(  # type: ignore[override]
        self, request: pb.GenerateStreamRequest, context: Any
    ) -> None:
        self.calls += 1
        if self._accepts or self.calls > 2:
            await accept(context)
        if self.calls <= 2:
            raise errors.ShuttingDown
        await context.write(pb.GenerateStreamResponse(chunk=pb.GenerateChunk(text="a")))


RETRIES = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.01s",
                "maxBackoff": "0.01s",
                "backoffMultiplier": 1,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}


@pytest.mark.parametrize(("accepts", "calls"), [(False, 3), (True, 1)])
async def test_a_clients_retry_policy_works_until_a_stream_is_accepted(
    accepts: bool, calls: int
) -> None:
    """Headers that are sent before the checks commit a call (spicedb#2577)."""
    servicer = Refusing(accepts=accepts)  # type: ignore[abstract]
    methods = gated(SERVICE, pb_grpc.add_ModelServiceServicer_to_server, servicer)
    options = [("grpc.service_config", json.dumps(RETRIES))]
    async with serving({SERVICE: methods}, options) as channel:
        stream = pb_grpc.ModelServiceStub(channel).GenerateStream(pb.GenerateStreamRequest())
        with suppress(grpc.aio.AioRpcError):
            assert [event.chunk.text async for event in stream] == ["a"]

    assert servicer.calls == calls


async def test_a_handler_that_is_cancelled_from_inside_is_a_fault(
    service: tuple[Raising, grpc.aio.Channel], caplog: pytest.LogCaptureFixture
) -> None:
    """gRPC itself leaves the caller waiting (grpc#29248)."""
    servicer, channel = service
    servicer.error = asyncio.CancelledError()

    with pytest.raises(grpc.aio.AioRpcError) as error:
        async with within(PROMPTLY, "the call did not end"):
            await pb_grpc.ModelServiceStub(channel).GetModel(pb.GetModelRequest())

    assert failure(error.value).reason == "INTERNAL"
    assert "fault in a call of /inference_service.v1.ModelService/GetModel" in caplog.text


class TestLibraries:
    """The services of grpcio's contracts, behind the same gate."""

    @pytest.fixture
    async def channel(self) -> AsyncIterator[grpc.aio.Channel]:
        servicer: Any = Raising()  # type: ignore[abstract]
        health = Health()
        health.up([""], [])
        async with serving(services(servicer, health, Reflection())) as channel:
            yield channel

    async def test_a_name_without_health_is_not_found_and_no_fault(
        self, channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture
    ) -> None:
        stub: Any = health_pb2_grpc.HealthStub(channel)

        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stub.Check(health_pb2.HealthCheckRequest(service="nobody"))

        shown = failure(error.value)
        assert (shown.code, shown.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
        assert not caplog.records

    async def test_a_stream_of_health(self, channel: grpc.aio.Channel) -> None:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        first = await anext(aiter(watch))
        watch.cancel()

        assert first == health_pb2.HealthCheckResponse(status="SERVING")

    @pytest.mark.parametrize("version", ["v1", "v1alpha"])
    async def test_a_stream_in_both_directions(
        self, channel: grpc.aio.Channel, version: str
    ) -> None:
        kind: Any = channel.stream_stream
        reflect = kind(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        answers = [answer async for answer in reflect([asked, asked])]

        assert len(answers) == 2
        assert SERVICE in [one.name for one in answers[0].list_services_response.service]

    async def test_bytes_that_are_no_message_within_a_stream(
        self, channel: grpc.aio.Channel
    ) -> None:
        kind: Any = channel.stream_stream
        reflect = kind("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            async for _ in reflect([b"\xff\xff\xff"]):
                pass

        assert failure(error.value).reason == "INVALID_PARAMETER"


async def test_raw_bytes() -> None:
    """A method without messages, such as one that forwards."""

    async def double(request: bytes, context: Any) -> bytes:
        if not request:
            raise errors.NotRunning("tiny")
        return request * 2

    def add(_: object, server: Any) -> None:
        methods: Handlers = {"Double": grpc.unary_unary_rpc_method_handler(double)}
        server.add_registered_method_handlers("raw", methods)

    async with serving({"raw": gated("raw", add, None)}) as channel:
        call: Any = channel.unary_unary("/raw/Double")
        assert await call(b"\xff\xfe") == b"\xff\xfe" * 2
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call(b"")
    assert failure(error.value).reason == "CONTAINER_NOT_RUNNING"
