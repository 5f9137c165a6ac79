"""Errors of the service, as statuses of gRPC: the one table, and the wire."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncGenerator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

import inference_service
from inference_service import errors
from inference_service.errors import ServiceError
from inference_service.interceptors import DOMAIN, ErrorInterceptor, rule, status_of
from inference_service.v1 import model_service_pb2 as pb
from inference_service.v1 import model_service_pb2_grpc as pb_grpc
from inference_service.v1.errors_pb2 import ErrorReason
from tests.serving import failure

REASONS = [v.name.removeprefix("ERROR_REASON_") for v in ErrorReason.DESCRIPTOR.values][1:]
OF_THE_BRIDGE = {"REQUEST_TOO_LARGE", "SERVICE_UNREACHABLE"}


def kinds(base: type[ServiceError] = ServiceError) -> Iterator[type[ServiceError]]:
    """The error and all below it, but for those that callers are told as another."""
    if "reason" in vars(base):
        yield base
    for kind in base.__subclasses__():
        yield from kinds(kind)


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_has_a_rule(reason: str) -> None:
    found = rule(reason)

    assert found.code in {code for code in code_pb2.Code.values() if code}
    assert 400 <= found.http_status < 600
    assert found.action.endswith(".")
    assert found.code_after_first_token in (code_pb2.OK, code_pb2.ABORTED)


def test_an_unknown_reason_has_no_rule() -> None:
    with pytest.raises(KeyError):
        rule("NONSENSE")


def test_the_reasons_of_the_errors_are_those_of_the_proto() -> None:
    assert {kind.reason for kind in kinds()} == set(REASONS) - OF_THE_BRIDGE


def test_every_error_has_a_reason_of_its_own() -> None:
    reasons = [kind.reason for kind in kinds()]

    assert len(set(reasons)) == len(reasons)


@pytest.mark.parametrize("kind", list(kinds())[1:])
def test_every_error_is_raised_somewhere(kind: type[ServiceError]) -> None:
    package = Path(inference_service.__file__).parent
    sources = set(package.rglob("*.py")) - {Path(inspect.getfile(errors))}

    assert any(f"{kind.__name__}(" in source.read_text() for source in sources)


def details(status: status_pb2.Status, *kinds: type[Message]) -> list[Message]:
    """The details, which must be of these kinds, in this order."""
    found = [kind() for kind in kinds]
    assert len(found) == len(status.details)
    assert all(p.Unpack(message) for p, message in zip(status.details, found, strict=True))
    return found


@pytest.mark.parametrize("kind", list(kinds()))
def test_a_status_has_the_code_the_message_and_one_error_info(kind: type[ServiceError]) -> None:
    status = status_of(kind("it went wrong", metadata={"model_id": "tiny", "exit_code": 137}))

    assert (status.code, status.message) == (rule(kind.reason).code, "it went wrong")
    [info] = details(status, error_details_pb2.ErrorInfo)
    assert info == error_details_pb2.ErrorInfo(
        reason=kind.reason,
        domain=DOMAIN,
        metadata={"model_id": "tiny", "exit_code": "137"},
    )


def test_a_status_has_all_that_an_error_knows() -> None:
    error = errors.InvalidParameter("top_k is odd", field="top_k", retry_after=1.25, log=["a", "b"])

    _, bad, retry, debug = details(
        status_of(error),
        error_details_pb2.ErrorInfo,
        error_details_pb2.BadRequest,
        error_details_pb2.RetryInfo,
        error_details_pb2.DebugInfo,
    )

    assert bad == error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(field="top_k", description="top_k is odd")
        ]
    )
    delay = duration_pb2.Duration(seconds=1, nanos=250_000_000)
    assert retry == error_details_pb2.RetryInfo(retry_delay=delay)
    assert debug == error_details_pb2.DebugInfo(stack_entries=["a", "b"])


def test_a_retry_at_once_is_told_too() -> None:
    _, retry = details(
        status_of(errors.EngineOverloaded("busy", retry_after=0)),
        error_details_pb2.ErrorInfo,
        error_details_pb2.RetryInfo,
    )

    assert retry == error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration())


@pytest.mark.parametrize("reason", sorted({kind.reason for kind in kinds()}))
def test_the_code_after_the_first_token_is_that_of_the_rule(reason: str) -> None:
    [kind] = [kind for kind in kinds() if kind.reason == reason]
    aborts = reason in {"MODEL_STOPPED", "SHUTTING_DOWN", "ENGINE_FAILED"}

    before = status_of(kind("no", metadata={"sent_token_count": 0}))
    after = status_of(kind("no", metadata={"sent_token_count": 1}))

    assert before.code == rule(reason).code
    assert after.code == (code_pb2.ABORTED if aborts else rule(reason).code)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        pytest.param(["a", "b"], ["a", "b"], id="all of it"),
        pytest.param(["a" * 700, "b" * 700, "c" * 700], ["b" * 700, "c" * 700], id="what fits"),
        pytest.param(["x", "é" * 5000], ["x", "é" * 373 + "..."], id="no half of a character"),
    ],
)
def test_the_last_lines_of_a_log_are_told(given: list[str], kept: list[str]) -> None:
    status = status_of(errors.StartFailed("no", log=given))

    _, debug = details(status, error_details_pb2.ErrorInfo, error_details_pb2.DebugInfo)
    assert debug == error_details_pb2.DebugInfo(stack_entries=kept)


class Raising(pb_grpc.ModelServiceServicer):
    """Raises `error` from each call, in a stream after one chunk, or with `cuts` in its midst.

    A log has no end.
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
    server = grpc.aio.server(interceptors=[ErrorInterceptor()])
    servicer = Raising()  # type: ignore[abstract]  # the calls that the tests make
    pb_grpc.add_ModelServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield servicer, channel
    await server.stop(None)


async def test_an_error_ends_a_call_with_its_status(
    service: tuple[Raising, grpc.aio.Channel],
) -> None:
    servicer, channel = service
    servicer.error = errors.NotRunning("tiny is not running", metadata={"model_id": "tiny"})

    with pytest.raises(grpc.aio.AioRpcError) as error:
        await pb_grpc.ModelServiceStub(channel).GetModel(pb.GetModelRequest())

    told = failure(error.value)
    assert (told.code, told.message) == (grpc.StatusCode.NOT_FOUND, "tiny is not running")
    assert (told.reason, told.metadata) == ("CONTAINER_NOT_RUNNING", {"model_id": "tiny"})


async def test_an_error_ends_a_stream_after_what_was_sent(
    service: tuple[Raising, grpc.aio.Channel],
) -> None:
    servicer, channel = service
    servicer.error = errors.EngineFailed("it died", metadata={"sent_token_count": 1})
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
    servicer.error, servicer.cuts = errors.ModelStopped("it was stopped"), True
    stream = pb_grpc.ModelServiceStub(channel).GenerateStream(pb.GenerateStreamRequest())

    with pytest.raises(grpc.aio.AioRpcError) as error:
        async with asyncio.timeout(10):
            async for _ in stream:
                pass

    assert failure(error.value).reason == "MODEL_STOPPED"


async def test_a_fault_is_internal_and_tells_the_log_alone(
    service: tuple[Raising, grpc.aio.Channel], caplog: pytest.LogCaptureFixture
) -> None:
    servicer, channel = service
    servicer.error = KeyError("a secret")

    with caplog.at_level(logging.ERROR), pytest.raises(grpc.aio.AioRpcError) as error:
        await pb_grpc.ModelServiceStub(channel).GetModel(pb.GetModelRequest())

    told = failure(error.value)
    assert (told.code, told.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "secret" not in told.message
    assert "a secret" in caplog.text


async def test_a_slow_reader_that_leaves_is_no_fault(
    service: tuple[Raising, grpc.aio.Channel], caplog: pytest.LogCaptureFixture
) -> None:
    servicer, channel = service
    stream = pb_grpc.ModelServiceStub(channel).StreamLogs(pb.StreamLogsRequest())
    await stream.read()
    seen = 0
    while seen != servicer.written:  # until there is no more room on the way
        seen = servicer.written
        await asyncio.sleep(0.1)

    with caplog.at_level(logging.ERROR):
        await channel.close()
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
    servicer.error = errors.StartFailed(
        letter * 100_000,
        metadata={"model_id": "m" * 63, "phase": "downloading weights", "exit_code": 1},
        retry_after=60,
        field="prompt",
        log=[letter * 10_000] * 20,
    )

    with pytest.raises(grpc.aio.AioRpcError) as error:
        await pb_grpc.ModelServiceStub(channel).GetModel(pb.GetModelRequest())

    told = failure(error.value)
    assert (told.code, told.reason) == (grpc.StatusCode.UNAVAILABLE, "START_FAILED")
    assert told.message.startswith(letter * 100)
    assert len(told.details) == 4
